"""The robots of one workstation, as its station file has them: an arm process, a policy server and an uplink for each.

    ros2 launch robotlearn station.launch.py station:=station.yaml learner:=tcp://learner.example:5555
    ros2 launch launch/station.launch.py station:=station.yaml only:=left namespace:=cell_1

Each robot is a process of its own in ros2 launch: `robotlearn station up STATION --only NAME`, which keeps its parts
alive with restart and back-off, whether it is started from here or not. One that is refused (a wrong option, a missing
driver) says why and stays ended; the others go on. Ctrl-C stops the arms first.
"""

import json
import subprocess

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "station": ("station.yaml", "The station's file; `robotlearn robots --scan --write station.yaml` makes one."),
    "learner": ("", "Where the learner listens: tcp://HOST:PORT; by default as the station's file says."),
    "config": ("", "The run's config, a YAML file or a shipped one's name; by default as the station's file says."),
    "namespace": ("", "A namespace, such as left: before each robot's name and before its topics."),
    "only": ("", "The name of one robot in the station's file; by default all of them."),
    "robotlearn": ("robotlearn", "The program: its path, where its virtual environment is not active."),
    "sigterm_timeout": ("20", "Seconds that a robot gets to stop and to send what it recorded, before SIGTERM."),
    "sigkill_timeout": ("20", "Seconds from there to SIGKILL."),
}
OPTIONS = ("learner", "config", "namespace")


def commands(values):
    """The command line of each robot, by its name. `values`: what the arguments above are."""
    options = [word for name in OPTIONS if values[name] for word in (f"--{name}", values[name])]
    only = ["--only", values["only"]] if values["only"] else []
    listing = [values["robotlearn"], "station", "processes", values["station"], *options, *only, "--json"]
    done = subprocess.run(listing, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"{' '.join(listing)} ended with status {done.returncode}")
    return {
        name: [values["robotlearn"], "station", "up", values["station"], *options, "--only", process["robot"]]
        for name, process in json.loads(done.stdout).items()
    }


def start(context):
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    return [ExecuteProcess(cmd=command, name=name, output="screen") for name, command in commands(values).items()]


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
