"""The launch files through the LaunchService of ROS 2, emulators, stations and all; where `launch` and torch are."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until

pytest.importorskip("launch.launch_service", reason="no launch here: it comes with a ROS installation")
pytest.importorskip("torch", reason="a station's policy servers need torch")

ROOT = Path(__file__).parents[2]
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [argument.split(":=", 1) for argument in sys.argv[2:]]
service = LaunchService()
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


def of(folder: Path) -> list[str]:
    """The command lines of the processes whose environment names that folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # another user's, or gone
            continue
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("namespaces", ["", "left,right"], ids=["one", "two"])
def test_arms_come_up_and_end_with_ctrl_c(namespaces: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("robotlearn")
    names = [f"{name}-arm" for name in namespaces.split(",")] if namespaces else ["arm"]
    said = tmp_path / "said"
    environment = os.environ | {
        "ROBOTLEARN_RUNTIME_DIR": str(tmp_path / "runtime"), "ROS_DOMAIN_ID": str(random.SystemRandom().randrange(102)),
        "HOME": str(tmp_path), "ROS_LOG_DIR": str(tmp_path / "log"),
    }  # fmt: skip
    command = [sys.executable, "-c", LAUNCH, str(ROOT / "launch" / "sim.launch.py"), f"robotlearn:={program}"]
    command += ["learner:=tcp://127.0.0.1:9", f"namespaces:={namespaces}"]
    with said.open("w") as stream:
        service = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        for name in names:
            until(lambda name=name: f"] {name}: leased (held by " in said.read_text(), f"{name} at its tick", 200)
    finally:
        os.killpg(service.pid, signal.SIGINT)  # as a terminal does: launch counts on it that its children get it too
        status = service.wait(100)
    text = said.read_text()
    assert status == 0 and "Traceback" not in text, text
    assert text.count("process has finished cleanly") == 2 * len(names), text  # each arm's emulator and station
    until(lambda: not of(tmp_path), "the last of their children to be gone")
