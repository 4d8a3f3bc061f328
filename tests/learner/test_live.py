"""The live view: what Rerun is given of real segments, and that nothing about it reaches the learner."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hal import load_spec
from robotlearn.cells import cells_of, env_options
from robotlearn.config import Config, dump, load_config
from robotlearn.display import Display
from robotlearn.edge.batch import BatchEdge
from robotlearn.edge.rollout import BatchRollout
from robotlearn.errors import ConfigError, DisplayError, ExtraError, RobotlearnError
from robotlearn.inputs import Inputs
from robotlearn.learner import live
from robotlearn.learner.learner import Learner
from robotlearn.learner.live import LiveView
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder
from robotlearn.wire.segment import Segment
from tests.waiting import until
from tests.wire.make import make_segment

pytest.importorskip("rerun", reason="rerun-sdk is not installed: pip install 'rerun-sdk>=0.26'")

SPEC = load_spec("panda")


def make_config(*overrides: str) -> Config:
    return load_config("smoke", ["policy.hidden=[8]", "edges.1.segment_steps=8", *overrides])


@pytest.fixture(scope="module")
def recorded() -> tuple[list[Segment], Callable[[Segment], np.ndarray]]:
    """Two episodes of one arm, and what its policy planned."""
    config = make_config("episode_steps=12")
    cells = cells_of(config)
    inputs = Inputs(config, cells)
    policy = build_policy(config, inputs)
    segments: list[Segment] = []
    rollout = BatchRollout(
        policy, inputs, cells[0], edge="batch", arms=1, threads=1, segment_steps=8, seed=0, emit=segments.extend,
        options=env_options(config),
    )  # fmt: skip
    for version in (3, 4):
        rollout.start(1)
        while rollout.running:
            rollout.advance(version)
    rollout.close()
    # Even times: where a busy machine's are not, one chunk's plan reaches into the next one's.
    first = np.cumsum([0, *(segment.steps for segment in segments)])
    segments = [
        replace(segment, wall=1.8e9 + 0.1 * (start + np.arange(segment.steps)))
        for start, segment in zip(first, segments, strict=False)
    ]
    statistics = policy.statistics()["action"]
    return segments, lambda segment: segment.chunk_path[:, -1] * statistics.std + statistics.mean


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EPISODE_PERIOD_S", 0.0)


def read(path: Path) -> dict[str, list[Any]]:
    """Entity path to its rows [(time of `wall` in ns, values)], in order, as Rerun's own reader finds them."""
    from rerun.chunk import RrdReader

    found: dict[str, list[Any]] = {}
    for chunk in RrdReader(path).stream():
        if chunk.is_static or "wall" not in chunk.timeline_names:
            continue
        batch = chunk.to_record_batch()
        times = batch.column("wall").cast("int64").to_pylist()
        data = [name for name in batch.schema.names if ":" in name]
        found.setdefault(chunk.entity_path, []).extend(
            zip(times, *(batch.column(name).to_pylist() for name in data), strict=True)
        )
    return {path: sorted(rows, key=lambda row: row[0]) for path, rows in found.items()}


def show(path: Path, segments: list[Segment], plan: Callable[[Segment], np.ndarray], version: int = 5) -> LiveView:
    view = LiveView(str(path))
    view.start("a-run", [SPEC], plan)
    for segment in segments:
        view.segment(segment, version)
    view.close()
    return view


@pytest.mark.usefixtures("at_once")
def test_a_file_holds_what_the_segments_hold(tmp_path: Path, recorded: Any) -> None:
    segments, plan = recorded
    view = show(tmp_path / "x.rrd", segments, plan)
    assert (view.shown, view.dropped, view.failed) == (len(segments), 0, 0) and len(segments) == 4
    found = read(tmp_path / "x.rrd")

    def values(path: str) -> tuple[np.ndarray, np.ndarray]:
        rows = [(time, row) for time, row in found[path] if np.isfinite(row).all()]
        return np.array([time for time, _ in rows]), np.array([row for _, row in rows])

    walls = np.concatenate([(segment.wall * 1e9).astype(np.int64) for segment in segments])
    for path, parts in {
        "/state/batch/sim": [segment.observations["observation.state"][1:] for segment in segments],
        "/action/batch/sim/proposed": [segment.action_proposed for segment in segments],
        "/action/batch/sim/executed": [segment.action_executed for segment in segments],
    }.items():
        times, rows = values(path)
        np.testing.assert_array_equal(times, walls, path)
        np.testing.assert_array_equal(rows, np.concatenate(parts), path)
    # The plan of a chunk that ran from its beginning is what was then proposed, action by action.
    _, planned = values("/action/batch/sim/planned")
    proposed = np.concatenate([segment.action_proposed for segment in segments])
    assert len(planned) == 4 * sum(len(segment.chunk_start) for segment in segments)
    np.testing.assert_allclose(planned, proposed, atol=1e-5)
    assert values("/version/batch/sim/weights")[1].ravel().tolist() == [3.0] * 3 + [4.0] * 3
    assert values("/version/batch/sim/staleness")[1].ravel().tolist() == [2.0] * 3 + [1.0] * 3
    texts = [[text for (text,) in row[1:] if text.startswith("batch")] for row in found["/episodes"]]
    assert texts == [
        [f"batch/sim: failure after 12 steps, weights [{version}]: {segment.task}"]
        for version, segment in ((3, segments[1]), (4, segments[3]))
    ]
    # The lines break off where an episode ends.
    assert sum(np.isnan(row).all() for _, row in found["/state/batch/sim"]) == 2


@pytest.mark.usefixtures("at_once")
def test_the_chain_ends_where_the_tool_is(tmp_path: Path, recorded: Any) -> None:
    from hal.kinematics import Chain

    segments, plan = recorded
    show(tmp_path / "x.rrd", segments[:1], plan)
    rows = read(tmp_path / "x.rrd")["/world/batch/sim/arm"]
    strips = [next(part for part in row[1:] if np.ndim(part) == 3) for row in rows]
    tool = np.array([strip[0][-1] for strip in strips])
    joints = segments[0].observations["observation.state"][1:, :7].astype(np.float64)
    np.testing.assert_allclose(tool, Chain(SPEC).position(joints), atol=1e-5)


def piece(steps: int = 6, chunks: int = 2, **fields: Any) -> Segment:
    """A segment of a robot whose model is not known."""
    return make_segment(steps, chunks, embodiment="other", **fields)


@pytest.mark.usefixtures("at_once")
def test_images_are_shown_ten_times_a_second(tmp_path: Path) -> None:
    slow = piece(20, image=8, last=True)  # a step each 0.1 s
    fast = piece(20, image=8, last=True, episode=1, wall=1.9e9 + np.arange(20) * 0.02)
    view = show(tmp_path / "x.rrd", [slow, fast], lambda segment: segment.chunk_path[:, -1])
    assert view.failed == 0
    times = [row[0] / 1e9 for row in read(tmp_path / "x.rrd")["/images/arm-0/wrist"]]
    assert 18 <= sum(time < 1.85e9 for time in times) <= 20 and sum(time > 1.85e9 for time in times) == 4


def shown_episodes(view: LiveView, segments: list[Segment]) -> list[tuple[str, int, int]]:
    return [(s.edge, s.episode, s.first_step) for s in segments if view._follows(s)]


def test_one_episode_of_a_robot_at_a_time_and_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EPISODE_PERIOD_S", 0.0)
    given = [
        piece(episode=0, first_step=6),  # its start was not seen
        piece(episode=1),
        piece(episode=2),  # another arm of the batch, meanwhile
        piece(episode=1, first_step=6, last=True),
        piece(episode=2, first_step=6, last=True),
        piece(episode=3, last=True),
    ]
    assert shown_episodes(LiveView("x.rrd"), given) == [("edge-a", 1, 0), ("edge-a", 1, 6), ("edge-a", 3, 0)]
    monkeypatch.setattr(live, "EPISODE_PERIOD_S", 1000.0)
    assert shown_episodes(LiveView("x.rrd"), given) == [("edge-a", 1, 0), ("edge-a", 1, 6)], "not at once the next one"


def test_a_robot_whose_edge_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EPISODE_PERIOD_S", 0.0)
    monkeypatch.setattr(live, "EPISODE_PATIENCE_S", 0.0)
    given = [piece(episode=1), piece(episode=1, session=7)]
    assert len(shown_episodes(LiveView("x.rrd"), given)) == 2


def test_only_so_many_robots_whatever_their_names(tmp_path: Path) -> None:
    names = [f"r{n}/../é {n}" for n in range(3 * live.ROBOTS)]
    given = [piece(edge=name, robot=name, last=True) for name in names]
    view = show(tmp_path / "x.rrd", given, lambda segment: segment.chunk_path[:, -1])
    assert (view.shown, view.failed) == (live.ROBOTS, 0)
    assert sum(path.startswith("/state/") for path in read(tmp_path / "x.rrd")) == live.ROBOTS


@pytest.mark.usefixtures("at_once")
def test_what_can_not_be_shown_is_counted_and_the_next_one_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def plan(segment: Segment) -> np.ndarray:
        if segment.episode == 0:
            raise ValueError("a strange chunk")
        return segment.chunk_path[:, -1]

    view = show(tmp_path / "x.rrd", [piece(last=True), piece(last=True, episode=1)], plan)
    assert (view.shown, view.failed) == (1, 1) and "a strange chunk" in caplog.text
    assert view.summary().endswith("x.rrd, 1 not understood")


def test_a_file_that_can_not_be_written_ends_the_view_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    view = show(tmp_path / "file" / "x.rrd", [piece(last=True)], lambda segment: segment.chunk_path[:, -1])
    assert view.shown == 0 and "the live view ends, the run goes on" in caplog.text
    view.segment(piece(last=True, episode=1), 0)
    view.metrics({"version": 1})


@pytest.mark.usefixtures("at_once")
def test_what_was_recorded_before_is_kept(tmp_path: Path) -> None:
    (tmp_path / "x.rrd").write_bytes(b"a former run")
    view = show(tmp_path / "x.rrd", [piece(last=True)], lambda segment: segment.chunk_path[:, -1])
    assert view.place == str(tmp_path / "x-2.rrd") and "/state/arm-0" in read(tmp_path / "x-2.rrd")
    assert (tmp_path / "x.rrd").read_bytes() == b"a former run"


STUCK = """
import socket
from hal import load_spec
from robotlearn.learner import live
from tests.wire.make import make_segment

live.EPISODE_PERIOD_S, live.CLOSE_PATIENCE_S = 0.0, 0.5
hole = socket.create_server(("127.0.0.1", 0))
where = f"rerun+http://127.0.0.1:{hole.getsockname()[1]}"
live.check(where)
view = live.LiveView(where)
view.start("a-run", [load_spec("panda")], lambda segment: segment.chunk_path[:, -1])
offered, episode = 0, 0
segments = [make_segment(4, 1, episode=n, image=400, last=True, embodiment="other") for n in range(5)]
while not view.dropped or view.shown < 10:
    view.segment(segments[offered % 5], 1)
    offered += 1
view.close()
assert 0 <= offered - (view.shown + view.dropped + len(view._items)) <= 1, "one is being shown"
assert view.failed == 0
print(view.summary())
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_viewer_that_takes_nothing_holds_nobody_up() -> None:
    """Neither the learner's thread, which only drops, nor the end of its process."""
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "dropped, it was too slow" in done.stdout


RUNS = {
    "one robot": ([], ["batch/sim"]),
    "several robots and tasks": (
        ["robot=[panda,so101]", "task=[reach,lift]", "observations.instruction=true", "edges.0.robot=panda",
         "edges.0.task=reach", "demonstrations.episodes=0"],
        ["batch/sim/panda", "batch/sim/so101"],
    ),
    "a camera": (
        ["observations.cameras=[front]", "observations.image_size=[32,32]", "observations.image_every=4"],
        ["batch/sim"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.renders] if kind == "a camera" else []) for kind in RUNS],
    ids=lambda kind: kind.replace(" ", "_"),
)
def test_a_learner_shows_what_it_takes_in(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learner, "_film", lambda self: None)
    monkeypatch.setattr(live, "EPISODE_PERIOD_S", 0.0)
    overrides, robots = RUNS[kind]
    config = make_config(
        "sft.steps=10", "demonstrations.episodes=1", "episode_steps=16", "edges.1.arms=4", "learner.updates=3",
        "learner.episodes_per_update=4", "learner.eval_episodes=2", *overrides,
    )  # fmt: skip
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    view = LiveView(str(tmp_path / "x.rrd"))
    learning = Learner(config, folder, resume=False, live=view)
    console = Console(file=io.StringIO(), width=200)
    stop = threading.Event()

    def learn() -> None:
        with Display(learning.view, console) as display:
            learning.run(stop, display)

    threads = [threading.Thread(target=learn)]
    threads[0].start()
    until(folder.address.exists, "the address")
    edge = BatchEdge(config, config.edges[1], folder.address.read_text(), tmp_path / "edge")
    threads.append(threading.Thread(target=edge.run, args=(stop,)))
    threads[1].start()
    threads[0].join(90)
    stop.set()
    for thread in threads:
        thread.join(30)
    edge.close()
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"live view: {tmp_path / 'x.rrd'}" in said and view.summary() in said
    assert view.failed == view.dropped == 0
    found = read(tmp_path / "x.rrd")
    assert len(found["/metrics/success"]) == 3 and len(found["/metrics/eval_success"]) == 1
    for robot in robots:
        # What the policy planned, as the learner reckons it from the path, is what the edge took for its proposal.
        planned = {time: row for time, row in found[f"/action/{robot}/planned"]}
        proposed = {time: row for time, row in found[f"/action/{robot}/proposed"] if np.isfinite(row).all()}
        both = planned.keys() & proposed.keys()
        assert len(both) >= 4, "a chunk's first action is at its step's time"
        for time in both:
            np.testing.assert_allclose(planned[time], proposed[time], atol=1e-4)
        assert f"/world/{robot}/arm" in found and f"/world/{robot}/plan" in found
        assert (f"/images/{robot}/front" in found) == (kind == "a camera")
    assert {path.removeprefix("/state/") for path in found if path.startswith("/state/")} == set(robots)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


MISTAKES: dict[str, tuple[str, type[RobotlearnError], str]] = {
    "nothing known": ("x.mp4", ConfigError, "--rerun x.mp4: expected viewer, FILE.rrd, or"),
    "no screen": ("viewer", DisplayError, "no display here"),
    "nobody there": (f"rerun+http://127.0.0.1:{free_port()}/proxy", DisplayError, "no viewer answers there"),
    "no port": ("rerun+http://127.0.0.1:many", DisplayError, "no viewer answers there"),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda name: name.replace(" ", "_"))
def test_a_mistake_is_told_before_anything_starts(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    where, kind, text = MISTAKES[mistake]
    with pytest.raises(kind, match=text):
        live.check(where)


@pytest.mark.parametrize(("found", "text"), [(None, "not installed"), ("0.25.1", r"rerun-sdk >= 0\.26, here is 0\.25")])
def test_the_package_is_missing_or_too_old(found: str | None, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(live, "version", version)
    with pytest.raises(ExtraError, match=rf"{text}.*pip install 'rerun-sdk>=0\.26'"):
        live.check("x.rrd")
