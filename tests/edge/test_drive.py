"""`robotlearn run`: real processes and sockets around a simulated arm in real time; its policy knows nothing."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hal import RobotSpec, load_spec
from robotlearn import checkpoint, cli
from robotlearn.checkpoint import Checkpoint
from robotlearn.config import dump, load_config
from robotlearn.contract import contract
from robotlearn.edge import local
from robotlearn.edge.drive import Drive, DriveView
from robotlearn.edge.latencies import described
from robotlearn.edge.local import Latency
from robotlearn.edge.outcome import Episodes, Previews
from robotlearn.errors import ProcessError
from robotlearn.inputs import Inputs
from robotlearn.people.errors import DeviceError
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder
from robotlearn.saved_policy import find_policy_for
from robotlearn.statistics import wilson_interval
from tests.e2e.harness import Site, wait_for
from tests.edge import driver
from tests.edge.test_station import line
from tests.waiting import until

HORIZON = 4
MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """A run folder whose only checkpoint holds random weights, for an arm that notes what reaches it."""
    driver.install(tmp_path, monkeypatch)

    def make(
        episode_steps: int, kind: str = "noting", task: str = "reach", more: tuple[str, ...] = (), **spec: Any
    ) -> Path:
        spec_file = driver.write_spec(tmp_path / "robot.yaml", driver=kind, **spec)
        config = load_config(
            "smoke",
            [
                f"robot={spec_file}",
                f"task={task}",
                f"episode_steps={episode_steps}",
                "policy.hidden=[8]",
                f"policy.horizon={HORIZON}",
                *more,
            ],
        )
        folder = RunFolder.create(tmp_path / "run", dump(config), "id")
        state = build_policy(config, Inputs(config)).state_dict()
        checkpoint.save(Checkpoint(7, state, contract=dict(contract(config))), folder.checkpoints)
        return folder.path

    return make


class Driving:
    """A drive on a thread, and what it said."""

    def __init__(self, run: Path, episodes: int) -> None:
        self.said: list[str] = []
        self.drive = Drive(find_policy_for(run, None, None), episodes=episodes)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.drive.run, args=(self.stop, self.said.append))
        self.thread.start()

    def process(self, part: str) -> int:
        return self.drive._arm._keepers[part].child.process.pid

    def in_mid_episode(self) -> None:
        until(lambda: self.drive.view().step > 3, "an episode to be under way", 60)

    def end(self) -> dict:
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.drive.close()
        return self.drive.outcome()

    def close(self) -> None:
        self.stop.set()
        self.thread.join(20)
        self.drive.close()


@pytest.fixture
def driving() -> Iterator[Callable[..., Driving]]:
    made: list[Driving] = []

    def make(run: Path, episodes: int) -> Driving:
        made.append(Driving(run, episodes))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_episodes_are_done_and_counted(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(10)
    monkeypatch.setattr("sys.argv", ["robotlearn", "run", str(run), "--episodes", "3", "--json"])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # handlers belong to the test runner
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capfd.readouterr()
    assert end.value.code == 0 and err == ""
    found = json.loads(out)
    assert (found["version"], found["episodes"], found["asked"], found["broken"]) == (7, 3, 3, 0)
    assert found["success"] == found["successes"] / 3 and found["mean_steps"] <= 10
    assert [found["low"], found["high"]] == list(wilson_interval(found["successes"], 3))
    assert found["held"] >= found["starved"] >= 0 and found["missed"] >= 0
    calls = driver.notes(tmp_path)
    assert calls.count("set_state") >= 3, "each episode has a start of its own"
    assert calls.count("write") >= 3 * found["mean_steps"] and "step" in calls and calls[-1] == "close"


def test_a_dry_run_shows_chunks_and_nothing_but_reads_reaches_the_driver(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(10)
    monkeypatch.setattr("sys.argv", ["robotlearn", "run", str(run), "--episodes", "3", "--dry-run", "--json"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capfd.readouterr()
    assert end.value.code == 0 and err == ""
    found = json.loads(out)
    assert (found["chunks"], found["broken"], found["steps"]) == (3, 0, 3 * HORIZON)
    home = find_policy_for(run, None, None).arm.spec.home
    for shown in found["previews"]:
        np.testing.assert_allclose(shown["observations"]["observation.state"], home, atol=1e-6)
        assert np.shape(shown["proposed"]) == np.shape(shown["executed"]) == (HORIZON, 8)
        assert len(shown["clipped"]) == len(shown["held"]) == HORIZON and shown["latency_ms"] > 0
    assert found["clipped"] == sum(sum(shown["clipped"]) for shown in found["previews"])
    proposed = [shown["proposed"] for shown in found["previews"]]
    assert proposed[0] != proposed[1], "each chunk has noise of its own"
    calls = driver.notes(tmp_path)
    assert set(calls) == {"read", "close"} and calls.count("read") >= 3


def test_what_a_signal_cuts_short_has_a_status_of_its_own(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stop = threading.Event()
    stop.set()
    monkeypatch.setattr("robotlearn.processes.stop_on_signals", lambda: stop)
    monkeypatch.setattr("sys.argv", ["robotlearn", "run", str(make_run(10)), "--episodes", "3", "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    found = json.loads(capfd.readouterr().out)
    assert end.value.code == 130 and (found["episodes"], found["asked"]) == (0, 3)


def test_a_robot_that_does_not_know_where_objects_are_is_one_line(make_run: MakeRun) -> None:
    drive = Drive(find_policy_for(make_run(10, "blind", "lift"), None, None), episodes=1)
    said: list[str] = []
    try:
        with pytest.raises(ProcessError, match=r"^robot panda can't tell where .*\.environment_state=false"):
            drive.run(threading.Event(), said.append)
    finally:
        drive.close()
    assert said == [] and drive.done == 0


def test_such_a_robot_does_a_task_whose_objects_nothing_touches(make_run: MakeRun) -> None:
    drive = Drive(find_policy_for(make_run(10, "blind"), None, None), episodes=2)
    try:
        drive.run(threading.Event())
    finally:
        drive.close()
    assert drive.done == 2 and drive.outcome()["broken"] == 0


PICTURES = ("observations.environment_state=false", "observations.cameras=[front]", "observations.image_size=[32,32]")


def test_what_nobody_can_judge_has_no_success(make_run: MakeRun) -> None:
    drive = Drive(find_policy_for(make_run(10, "seeing", "lift", PICTURES), None, None), episodes=2)
    said: list[str] = []
    try:
        drive.run(threading.Event(), said.append)
    finally:
        drive.close()
    found = drive.outcome()
    assert (found["episodes"], found["broken"], found["mean_steps"], found["judge"]) == (2, 0, 10, "nobody")
    assert {found[key] for key in ("successes", "success", "low", "high")} == {None} and drive.view().success is None
    assert "success not known, nobody marked it (2 episodes), length 10.0 steps" in drive.summary()
    (told,) = said
    assert "nobody says how an episode ended: each lasts all its 10 steps" in told and "edges.0.person" in told


def test_a_persons_keys_judge_what_the_arm_can_not(make_run: MakeRun, driving: Callable[..., Driving]) -> None:
    master, slave = os.openpty()
    person = f"{{device: keyboard, options: {{terminal: {os.ttyname(slave)}}}}}"
    edge = f"edges=[{{name: left, kind: paced, person: {person}, scene_reset: key}}]"
    one = driving(make_run(150, "seeing", "lift", (*PICTURES, edge)), 3)
    for episode, key in enumerate(("y", "n", ""), 1):
        until(
            lambda episode=episode: (
                f"episode {episode} of" in (line := one.drive.view().line()) and "set the scene up" in line
            ),
            "the display to say what is waited for",
            60,
        )
        os.write(master, b"\r")
        if key:
            until(lambda: one.drive.view().step > 3, "the episode to be under way", 60)
            os.write(master, key.encode())
            until(lambda episode=episode: one.drive.done == episode, "the episode to end", 60)
    found = one.end()
    for descriptor in (master, slave):
        os.close(descriptor)
    assert (found["episodes"], found["successes"], found["broken"], found["judge"]) == (3, 1, 0, "person")
    assert one.drive._account.lengths[2] == 150 > max(one.drive._account.lengths[:2])  # type: ignore[union-attr]
    told = "a person ends each episode (y: success, n: failure); one that lasts all its 150 steps has failed"
    assert any(told in text for text in one.said)
    assert "(1 of 3, as a person marked them)" in one.drive.summary()


@pytest.mark.slow
def test_a_killed_arm_process_is_said_and_started_again_and_its_episode_counts_as_broken(
    make_run: MakeRun, driving: Callable[..., Driving]
) -> None:
    one = driving(make_run(100), 2)
    one.in_mid_episode()
    os.kill(one.process("arm"), signal.SIGKILL)
    found = one.end()
    assert one.said == [
        "station: the arm process ended with status -9; it is started again",
        "episode 1 broke: its arm process ended",
    ]
    assert (found["episodes"], found["broken"], found["asked"]) == (1, 1, 2)


def silence(text: str) -> float:
    """[s] without an action that a line tells of, 0 when it tells of none."""
    told = re.search(r"no action for ([0-9.]+) s", text)
    return float(told[1]) if told else 0.0


@pytest.mark.slow
def test_without_a_policy_server_the_arm_stops_by_itself_and_both_go_on(
    make_run: MakeRun, driving: Callable[..., Driving]
) -> None:
    one = driving(make_run(100, watchdog_s=1.0), 2)  # less than a policy server needs to start
    one.in_mid_episode()
    arm = one.process("arm")
    os.kill(one.process("policy-server"), signal.SIGKILL)
    found = one.end()
    assert "station: the policy-server process ended with status -9; it is started again" in one.said
    assert any("episode 1 broke, the arm stopped: " in text and silence(text) >= 1.0 for text in one.said)
    assert any("arm stopped, episode ended" in text and silence(text) >= 1.0 for text in one.said)
    assert (found["episodes"], found["broken"]) == (1, 1)
    assert found["held"] >= found["starved"] > 0
    assert one.drive._arm._keepers["arm"].restarts == 0 and one.process("arm") == arm


def test_a_person_at_a_terminal_sets_the_scene_up_and_says_how_it_ended(
    make_run: MakeRun, driving: Callable[..., Driving]
) -> None:
    master, slave = os.openpty()
    person = f"{{device: keyboard, options: {{terminal: {os.ttyname(slave)}}}}}"
    run = make_run(10**6, more=(f"edges=[{{name: left, kind: paced, person: {person}, scene_reset: key}}]",))
    one = driving(run, 1)
    asked = "set the scene up, then press Enter"
    until(lambda: asked in one.drive.view().line(), "the display to say what is waited for", 60)
    shown = b""
    while asked.encode() not in shown:
        shown += os.read(master, 1000)
    assert b"w s / up down: forth, back" in shown
    os.write(master, b"\r")
    one.in_mid_episode()
    os.write(master, b"y")
    assert one.end()["successes"] == 1
    for descriptor in (master, slave):
        os.close(descriptor)


def test_a_person_without_a_terminal_is_one_line(make_run: MakeRun) -> None:
    person = "{device: keyboard, options: {terminal: /dev/none}}"
    run = make_run(10, more=(f"edges=[{{name: left, kind: paced, person: {person}}}]",))
    with pytest.raises(DeviceError, match=r"edges\.0\.person\.options\.terminal: keyboard: terminal /dev/none"):
        Drive(find_policy_for(run, None, None), episodes=1)


@pytest.mark.slow
def test_an_interrupt_ends_it_cleanly_with_a_summary(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(40)
    site = Site(tmp_path)
    try:
        program = site.start("run", "run", run, "--episodes", 1000)
        wait_for(lambda: any(text.startswith("episode 2 of 1000") for text in program.lines), "two episodes", program)
        program.send(signal.SIGINT)
        assert program.ended() == 130, "fewer episodes than asked"
        site.gone()
        assert program.lines[-1].startswith("version 7: success ") and "0 broken" in program.lines[-1]
        assert driver.notes(tmp_path)[-1] == "close", "the arm is stopped and given back"
    finally:
        site.close()


def test_how_it_stands_fits_a_line_and_a_page() -> None:
    view = DriveView(
        title="runs/[x] drives panda",
        unit="episode",
        episode=3,
        episodes=10,
        done=2,
        step=12,
        state="working",
        health="ok",
        version=20,
        inference=described({1: Latency(100, 2.14, 3.26)}),
        starved=1,
        missed=0,
        broken=1,
        success=0.5,
    )
    facts = (
        "version 20, step 12, starved 1 and missed 0 ticks, success 50%, 1 broken, inference 2.1 ms (p99 3.3), "
        "arm working (ok)"
    )
    assert view.line() == f"episode 3 of 10 | {facts}"
    console = Console(width=150, file=io.StringIO())
    console.print(view.page())
    title, bar, last = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert title.strip() == "runs/[x] drives panda" and "episode 3 of 10" in bar and last.strip() == facts


def test_only_whole_episodes_tell_of_the_policy() -> None:
    account = Episodes()
    for step in range(3):
        account.hear(line(1, step, last=step == 2))
    account.hear(line(2, 0, held=True))
    account.hear(line(2, 1, held=True, truncated=True, stopped="arm: no action"))
    account.hear(line(3, 0))
    account.hear(line(3, 1, truncated=True))
    found = account.as_json({"starved": 2, "missed": 1, "clipped": 4})
    assert (found["episodes"], found["successes"], found["broken"], found["held"]) == (2, 1, 1, 2)
    assert found["mean_steps"] == 2.5 and account.done == 3
    assert account.summary(found) == (
        "success 50.0% [9.5%, 90.5%] (1 of 2), length 2.5 steps, 1 broken; ticks: 2 starved, 1 missed; "
        "steps: 4 clipped, 2 held"
    )
    nothing = Episodes(broken=1)
    assert nothing.summary(nothing.as_json({"starved": 0, "missed": 0, "clipped": 0})).startswith("no whole episode, 1")


def test_a_chunk_is_shown_with_what_becomes_of_it() -> None:
    proposed = np.array([[0.1, 0.2], [0.3, np.nan], [0.1, 0.1], [0.1, 0.08001]], np.float32)
    executed = np.array([[0.1, 0.2], [0.0, 0.0], [0.05, 0.1], [0.1, 0.08]], np.float32)
    arrays = {
        "observation.state": np.zeros(2, np.float32),
        "observation.environment_state": np.ones(13, np.float32),
        "observation.images.front": np.zeros((4, 6, 3), np.uint8),
    }
    panda = load_spec("panda")
    spec = RobotSpec.model_validate(
        panda.model_dump() | {"joints": panda.joints[:1], "driver": "of two", "mujoco": None, "guard": None}
    )
    account = Previews()
    account.hear(
        local.Preview(
            episode=1,
            version=2,
            observations=local.tensors(arrays),
            proposed=local.Tensor.of(proposed),
            executed=local.Tensor.of(executed),
            clipped=local.Tensor.of(np.array([False, True, True, True])),
            held=local.Tensor.of(np.array([False, True, False, False])),
            latency_ms=3.25,
        )
    )
    assert account.shown[0].text("chunk 1", spec).splitlines() == [
        "chunk 1, 3.2 ms",
        "  observation.state: measured joints in rad, gripper width in m",
        "                joint1  gripper",
        "                0.0000   0.0000",
        "  observation.environment_state: by entry, see envs/features.py",
        "   0          " + " ".join(["  1.0000"] * 12),
        "  12            1.0000",
        "  observation.images.front  uint8 (4, 6, 3)",
        "  actions: changes of the joints in rad, gripper width in m",
        "                joint1  gripper",
        "   0 proposed   0.1000   0.2000",
        "   1 proposed   0.3000      nan",
        "     held       0.0000   0.0000",
        "   2 proposed   0.1000   0.1000",
        "     becomes    0.0500   0.1000",
        "   3 proposed   0.1000   0.0800",
        "     becomes    the same to four decimals",
    ]
    found = account.as_json({})
    assert (found["steps"], found["clipped"], found["held"]) == (4, 3, 1)
    assert "nothing moved: 1 chunk, 3.2 ms each" in account.summary(found)
    assert "of 4 steps 3 would be changed to keep the robot's limits, 1 of them held" in account.summary(found)
