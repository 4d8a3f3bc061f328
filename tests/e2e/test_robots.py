"""A run with an arm behind a real driver: LeRobot's, over a serial bus that is emulated in a process of its own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hal.estop import EStop
from hal.runtime import runtime_folder
from tests.e2e.harness import Program, Site, accounts, batch, paced, tiny, wait_for
from tests.film import filming
from tests.people.emulated import ArmProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def runtime(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(site.temporary / "rt"))


def emulate(site: Site, name: str = "arm") -> tuple[Program, dict[str, Any]]:
    """An emulated SO-101 that is there, and the driver's options for it."""
    program = site.start("emulator", "emulate", "so101", "--name", name)
    file = runtime_folder("emulators") / name / "robot.json"
    wait_for(lambda: file.exists() and program.lines, "the emulator", program)
    options: dict[str, Any] = json.loads(file.read_text())["options"]
    return program, options


def state(name: str = "arm") -> dict[str, Any]:
    file = runtime_folder("robots") / name / "state.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"state": "", "reason": ""}
    return found


def test_an_arm_that_fails_is_withdrawn_comes_back_and_the_others_go_on(site: Site) -> None:
    emulator, options = emulate(site)
    edges = batch("sim"), paced("arm", driver="lerobot", options=options)
    config = site.config({**tiny(*edges), "robot": "so101"})
    learner = site.learner(config)
    address = site.address(learner)
    sim, arm = site.edge(config, "sim", address), site.edge(config, "arm", address)
    running = learner, sim, arm
    wait_for(lambda: len(site.stored("arm")) >= 4, "segments of the arm", emulator, *running)

    emulator.kill()
    gone = f"the port {options['port']} is gone"
    wait_for(lambda: (now := state())["state"] == "fault" and gone in now["reason"], "the fault to be told", *running)
    wait_for(lambda: any("fault" in line for line in learner.lines), "the run's own display to say so", *running)
    before = site.newest()
    wait_for(lambda: site.updates_since(before, 3), "updates from the other edge", *running)

    recorded = len(site.stored("arm"))
    emulator, _ = emulate(site)
    wait_for(lambda: len(site.stored("arm")) > recorded, "segments of the arm that came back", emulator, *running)

    EStop("arm").press("the test", "a finger in the way")
    wait_for(lambda: state()["state"] == "e-stopped", "the e-stop to be told", emulator, *running)
    assert "a finger in the way" in state()["reason"]
    before, recorded = site.newest(), len(site.stored("arm"))
    wait_for(lambda: site.updates_since(before, 3), "updates while it is stopped", emulator, *running)
    EStop("arm").clear()
    wait_for(lambda: len(site.stored("arm")) > recorded, "segments of the arm that goes on", emulator, *running)

    arm.stop()
    sim.stop()
    learner.stop(signal.SIGINT)
    accounts(site, "sim", "arm")


def saved(site: Site, edge: dict[str, Any]) -> Path:
    """A run of the shipped config for a SmolVLA on a SO-101, tiny and untrained, whose edge differs in this much."""
    from policies.vla.tiny import write_tiny
    from robotlearn import checkpoint
    from robotlearn.checkpoint import Checkpoint
    from robotlearn.config import dump, load_config
    from robotlearn.contract import contract
    from robotlearn.inputs import Inputs
    from robotlearn.policy import build_policy
    from robotlearn.run_folder import RunFolder

    cameras = ("camera1", "camera2", "camera3")
    source = write_tiny("smolvla", site.folder / "tiny", cameras=cameras, side=32, chunk=16)
    config = load_config(
        "smolvla-so101",
        [
            f"policy.pretrained={source}",
            "policy.width=8",
            "policy.denoising_steps=2",
            "policy.precision=float32",
            "observations.image_size=[32,32]",
            "episode_steps=60",
            "learner.device=cpu",
            *(f"edges.0.{key}={json.dumps(value)}" for key, value in edge.items()),
        ],
    )
    folder = RunFolder.create(site.run, dump(config), "id")
    state = build_policy(config, Inputs(config)).state_dict()
    checkpoint.save(Checkpoint(1, state, contract=dict(contract(config))), folder.checkpoints)
    return folder.path


def test_the_shipped_vla_runs_on_an_arm_and_a_person_judges(site: Site) -> None:
    master, slave = os.openpty()
    arm = ArmProcess(site.folder, "left")
    try:
        with filming(np.full((160, 320, 3), 120, np.uint8)) as camera:
            person = {"device": "keyboard", "options": {"terminal": os.ttyname(slave)}}
            options = {**arm.options, "cameras": {"front": camera, "wrist": camera}}
            run = saved(site, {"device": "cpu", "person": person, "options": options})

            dry = site.start("dry", "run", run, "--dry-run", "--episodes", 1, "--json")
            assert dry.ended() == 0, dry.tail()
            shown = json.loads(dry.lines[-1])
            assert (shown["chunks"], shown["broken"], shown["steps"]) == (1, 0, 16)
            assert shown["previews"][0]["observations"]["observation.images.wrist"] == "uint8 (32, 32, 3)"

            drive = site.start("drive", "run", run, "--episodes", 2, "--json")
            for episode, key in enumerate((b"y", b""), 1):
                wait_for(
                    lambda count=episode: sum("set the scene up" in line for line in drive.lines) == count,
                    "the arm to wait for its scene",
                    drive,
                )
                start = arm.pose
                os.write(master, b"\r")
                if key:
                    wait_for(lambda start=start: np.abs(arm.pose - start).max() > 0.05, "the arm to move", drive)
                    os.write(master, key)
            assert drive.ended() == 0, drive.tail()
    finally:
        arm.close()
        for descriptor in (master, slave):
            os.close(descriptor)
    assert any("a person ends each episode (y: success, n: failure)" in line for line in drive.lines)
    found = json.loads(drive.lines[-1])
    assert (found["episodes"], found["successes"], found["broken"], found["judge"]) == (2, 1, 0, "person")
    assert 30 < found["mean_steps"] < 60, "one by its key, one by its time"
    assert found["held"] < found["mean_steps"], "chunks are executed"
