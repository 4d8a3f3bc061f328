"""Emulated arms behind ROS 2 topics, and a station for each: a rehearsal of everything but the metal.

    ros2 launch robotlearn sim.launch.py                           # one arm, /joint_states, the robot `arm`
    ros2 launch robotlearn sim.launch.py namespaces:=left,right    # two: /left/joint_states, the robot `left-arm`, ...

The stations work for a learner that is started by itself, before or after:

    robotlearn learner reach learner.bind=tcp://127.0.0.1:5555
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

HERE = Path(__file__).parent

ARGUMENTS = {
    "emulate": ("ros2-panda", "What is emulated: ros2-ROBOT, or dds-ROBOT, which needs no rclpy."),
    "namespaces": ("", "The namespaces of the arms, with commas between; by default one arm without a namespace."),
    "station": (str(HERE / "sim.yaml"), "The station's file, for the arm in each of the namespaces."),
    "learner": ("tcp://127.0.0.1:5555", "Where the learner listens: tcp://HOST:PORT."),
    "config": ("reach", "The run's config, a YAML file or a shipped one's name."),
    "cameras": ("", "Cameras of the robot's spec whose images are published, with commas between."),
    "view": ("false", "Whether MuJoCo's window shows each arm: true or false."),
    "robotlearn": ("robotlearn", "The program: its path, where its virtual environment is not active."),
    "sigterm_timeout": ("20", "Seconds that a robot gets to stop and to send what it recorded, before SIGTERM."),
    "sigkill_timeout": ("20", "Seconds from there to SIGKILL."),
}


def emulators(values):
    """The command line of each emulated arm, by its namespace. `values`: what the arguments above are."""
    found = {}
    for namespace in [part.strip().strip("/") for part in values["namespaces"].split(",")]:
        name = namespace.replace("/", "-") or "sim"
        command = [values["robotlearn"], "emulate", values["emulate"], "--name", name]
        command += ["--namespace", namespace] if namespace else []
        for camera in filter(None, map(str.strip, values["cameras"].split(","))):
            command += ["--camera", camera]
        found[namespace] = [*command, *(["--view"] if values["view"] == "true" else [])]
    return found


def start(context):
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    parts = []
    for namespace, command in emulators(values).items():
        passed = {name: values[name] for name in ("station", "learner", "config", "robotlearn")}
        parts.append(ExecuteProcess(cmd=command, name="-".join(filter(None, ["emulator", namespace])), output="screen"))
        parts.append(
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(HERE / "station.launch.py")),
                launch_arguments={**passed, "namespace": namespace, "only": ""}.items(),
            )
        )
    return parts


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
