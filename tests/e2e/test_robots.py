"""A run with an arm behind a real driver: LeRobot's, over a serial bus that is emulated in a process of its own."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from hal.estop import EStop
from hal.runtime import runtime_folder
from tests.e2e.harness import Program, Site, accounts, batch, paced, tiny, wait_for

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
