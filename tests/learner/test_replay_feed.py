"""What an off-policy learner is fed: each stored segment once, so many steps as an update needs; resumed, the same."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from robotlearn.algorithms.base import OffPolicy
from robotlearn.algorithms.registry import make_algorithm
from robotlearn.buffer.compact import evict
from robotlearn.buffer.index import SegmentIndex
from robotlearn.buffer.log_files import Position
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import Cell, cells_of
from robotlearn.config import Config, load_config
from robotlearn.errors import ConfigError, LogError
from robotlearn.inputs import Inputs
from robotlearn.learner.replay_feed import ReplayFeed, check_replay
from robotlearn.policy import build_policy
from robotlearn.replay.finished import Finished
from robotlearn.wire import record as records
from robotlearn.wire.encodings import Encodings, ImageEncoding
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.intake import StoredSegment
from robotlearn.wire.segment import Segment
from tests.replay.whole import Whole, make_whole

TINY = [
    "policy.hidden=[8]", "algorithm.critic_hidden=[8]", "replay.batch_size=16", "replay.steps_per_update=4",
    "replay.update_to_data=0.25", "replay.starts_after=40", "replay.n_step=3", "episode_steps=20",
]  # fmt: skip
MIXED = (
    "replay.sampling=[{share: 0.5, how: prioritized, balance: [success]}, {share: 0.3, how: newest}, "
    "{share: 0.2, source: successes, how: prioritized}]"
)

CAMERA = ("observations.cameras=[front]", "observations.image_size=[32, 32]", "policy.image_encoder=cnn")


@cache
def tiny(*overrides: str) -> Config:
    return load_config("reach-sac", [*TINY, *overrides])


@cache
def parts_of(cameras: tuple[str, ...]) -> tuple[Inputs, list[Cell]]:
    config = tiny(*(CAMERA if cameras else ()))
    cells = cells_of(config)
    return Inputs(config, cells), cells


def wholes(config: Config, count: int, seed: int = 0) -> list[Whole]:
    rng, cells = np.random.default_rng(seed), parts_of(config.observations.cameras)[1]
    return [make_whole(rng, i, cells, config, int(rng.integers(5, 21))) for i in range(count)]


def pieces_of(whole: Sequence[Whole], seed: int = 0) -> list[Segment]:
    """In the order of a log that several edges write to at once."""
    pieces = [piece for one in whole for piece in one.pieces()]
    near = np.argsort(np.arange(len(pieces)) + np.random.default_rng(seed).normal(0, 3, len(pieces)))
    return [pieces[i] for i in near]


class Fed:
    """A feed with its algorithm, over a store; opened again after another one it is a learner that was resumed."""

    def __init__(self, path: Path, config: Config, saved: dict[str, Any] | None = None, **options: Any) -> None:
        torch.manual_seed(0)
        self.config = config
        inputs, cells = parts_of(config.observations.cameras)
        policy = build_policy(config, inputs)
        self.algorithm = make_algorithm(config.algorithm.name, policy, config.algorithm, config.seed)
        assert isinstance(self.algorithm, OffPolicy)
        self.store = SegmentStore(path, sync="process", file_bytes=options.pop("file_bytes", 32 << 10))
        self.gate = StalenessGate(1, 0)
        self.gate.accepted(options.pop("accepted", 0))
        self.heard: list[tuple[Segment, list[Finished]]] = []
        self.feed = ReplayFeed(
            self.algorithm, config, cells, inputs, self.store, options.pop("until", self.store.end), self.gate,
            heard=lambda segment, finished: self.heard.append((segment, list(finished))),
            demonstrated=options.pop("demonstrated", None),
        )  # fmt: skip
        self.metrics: list[dict[str, float]] = []
        if saved is not None:
            policy.load_state_dict(saved["policy"])
            self.algorithm.load_state_dict(saved["algorithm"])
        self.said = self.feed.begin(saved["facts"] if saved is not None else None, saved["fed"] if saved else {})
        self._sequence = self.store.stored

    def put(self, segments: Sequence[Segment]) -> list[StoredSegment]:
        """Store them, as the intake does, without telling the feed."""
        data = [records.encode(one, session=1, sequence=self._sequence + i) for i, one in enumerate(segments)]
        self._sequence += len(data)
        outcomes = self.store.append(data)
        self.gate.accepted(sum(one.last for one in segments))
        return [StoredSegment(one.position, one.header, self.store) for one in outcomes if one.position and one.header]

    def give(self, segments: Sequence[Segment]) -> None:
        self.feed.take(self.put(segments))

    def learn(self, most: int = 1000) -> int:
        """Updates until none is due, `most` at most."""
        done = 0
        while self.feed.due and done < most:
            learnt = self.feed.update(lambda: None)
            self.metrics += [] if learnt is None else [learnt[0] | self.feed.row()]
            self.feed.published()
            done += 1
        return done

    def saved(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "policy": {key: value.clone() for key, value in self.algorithm.policy.state_dict().items()},
            "algorithm": self.algorithm.state_dict(),
            "fed": {key: value.clone() for key, value in self.feed.state().items()},
            "facts": json.loads(json.dumps(self.feed.facts())),
        }

    def close(self) -> None:
        self.feed.close()
        self.store.close()


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Callable[..., Fed]]:
    made: list[Fed] = []

    def start(config: Config, saved: dict[str, Any] | None = None, path: str = "store", **options: Any) -> Fed:
        made.append(Fed(tmp_path / path, config, saved, **options))
        return made[-1]

    yield start
    for one in made:
        one.close()


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["facts"] == other["facts"]
    for part in ("policy", "algorithm", "fed"):
        assert one[part].keys() == other[part].keys()
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), f"{part}: {name}"


# ---- taking in


def test_no_more_is_taken_in_than_the_update_that_is_due_needs(fed: Callable[..., Fed]) -> None:
    one = fed(tiny())
    segments = pieces_of(wholes(one.config, 20))
    one.give(segments)
    there = np.cumsum([segment.steps for segment in segments])
    for update in range(1, 8):
        needed = int(np.searchsorted(there, 40 + 16 * update)) + 1
        assert one.feed.env_steps == there[needed - 1] == one.feed.row()["replay/steps"]
        assert one.feed.row()["replay/waiting"] == len(segments) - needed
        assert one.gate.pending == sum(segment.last for segment in segments[needed:])
        assert one.learn(1) == 1
    one.learn()
    assert one.feed.env_steps == there[-1] and not one.gate.pending
    assert len(one.metrics) == (there[-1] - 40) // 16
    assert one.feed.waits_for == f"environment steps: {40 + 16 * (len(one.metrics) + 1) - there[-1]} more"
    one.feed.take(())  # between updates, those who listen are told
    assert [segment.episode for segment, _ in one.heard] == [segment.episode for segment in segments]
    assert sorted(each.steps for _, finished in one.heard for each in finished) == sorted(
        len(each) for each in wholes(one.config, 20)
    )
    assert one.metrics[-1]["update_to_data"] == pytest.approx(0.25, abs=0.02)


def test_in_which_pieces_it_is_told_of_makes_no_difference(fed: Callable[..., Fed]) -> None:
    segments = pieces_of(wholes(tiny(), 20))
    one, other = fed(tiny(MIXED), path="a"), fed(tiny(MIXED), path="b")
    one.give(segments)
    one.learn()
    for segment in segments:
        other.give([segment])
        other.learn(1 if segment.episode % 2 else 0)
    other.learn()
    assert_same(one.saved(), other.saved())
    assert len(one.metrics) > 8


@pytest.mark.parametrize(("sampling", "stop"), (((), 3), ((MIXED,), 1)), ids=("uniform", "mixed"))
def test_resumed_it_goes_on_bit_by_bit(
    fed: Callable[..., Fed], sampling: tuple[str, ...], stop: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(*sampling)
    segments = pieces_of(wholes(config, 20))
    whole = fed(config, path="whole")
    whole.give(segments)
    whole.learn()

    saved, given, updates = None, 0, 0
    while given < len(segments) or updates < len(whole.metrics):
        one = fed(config, saved)
        some = segments[given : given + 40]
        given += len(some)
        one.give(some)
        updates += one.learn(stop)
        saved = one.saved()
        one.learn(1)  # what comes after the checkpoint is lost
        one.close()
    assert saved is not None and "equal priorities" not in caplog.text
    assert_same(saved, whole.saved())


def test_what_came_before_the_first_checkpoint_waits_besides_what_the_server_took_meanwhile(
    fed: Callable[..., Fed],
) -> None:
    config = tiny()
    segments = [one.segment for one in wholes(config, 4)]
    before = fed(config)
    before.put(segments)  # and ends before it has learnt anything
    before.close()
    again = fed(config, accepted=3)
    assert again.feed.env_steps == sum(segment.steps for segment in segments)
    assert again.gate._pending == 3


# ---- other logs


def test_demonstrations_and_former_runs_are_drawn_from_and_are_no_steps_of_this_run(
    fed: Callable[..., Fed], tmp_path: Path
) -> None:
    former = fed(tiny(), path="former/segments")
    former.put([one.segment for one in wholes(tiny(), 3, seed=1)])
    former.close()
    parts = "{share: 0.5, source: demonstrations}, {share: 0.25, source: online}, {share: 0.25}"
    config = tiny(f"replay.runs=[{tmp_path}/former]", f"replay.sampling=[{parts}]", "demonstrations.episodes=1")
    shown = tmp_path / "shown"
    with SegmentStore(shown) as store:
        for i, one in enumerate(wholes(config, 4, seed=2)):
            one.segment.success[-1] = i > 0  # what failed is no demonstration
            store.append([records.encode(one.segment, session=9, sequence=i)])
    one = fed(config, demonstrated=shown / "records")
    steps = [sum(map(len, wholes(config, n, seed))) for n, seed in ((4, 2), (3, 1))]
    failed = len(wholes(config, 1, 2)[0])
    assert one.said.startswith(f"{sum(steps)} steps in the replay memory")
    assert one.feed.env_steps == 0 and not one.feed.due
    row = one.feed.row()
    assert [row[f"replay/part_{i}"] for i in range(3)] == [steps[0] - failed, 0, sum(steps) - failed]
    one.give(pieces_of(wholes(config, 10)))
    one.learn(2)
    saved = one.saved()
    one.learn(2)
    one.close()
    again = fed(config, saved, demonstrated=shown / "records")
    again.learn(2)
    assert_same(again.saved(), one.saved())


def test_a_former_run_of_other_robots_is_refused(fed: Callable[..., Fed], tmp_path: Path) -> None:
    former = fed(tiny(), path="former/segments")
    former.put([replace(one.segment, task="make tea") for one in wholes(tiny(), 2)])
    former.close()
    with pytest.raises(ConfigError, match=r"former/segments/records holds nothing .* told 'make tea'"):
        fed(tiny(f"replay.runs=[{tmp_path}/former]"))
    os.makedirs(tmp_path / "empty" / "records")
    with pytest.raises(ConfigError, match="it is empty"):
        fed(tiny(f"replay.runs=[{tmp_path}/empty]"), path="other")


# ---- eviction


@pytest.mark.parametrize("image", ("raw", "lossless"))
def test_what_is_evicted_is_drawn_no_more_and_the_rest_is_what_it_was(fed: Callable[..., Fed], image: str) -> None:
    config, encodings = tiny(MIXED, *CAMERA), Encodings("raw", other=ImageEncoding(image))
    one = fed(config, file_bytes=128 << 10)
    segments = [
        replace(segment, encodings=encodings, intervention=np.zeros(segment.steps, bool))  # else it is never evicted
        for segment in pieces_of(wholes(config, 24))
    ]
    stored = one.put(segments)
    for each in stored[::25]:
        spoil(one.store, each.position, each.position.length - 400)
    one.feed.take(stored)
    one.learn()
    saved = one.saved()
    one.close()
    one = fed(config, saved, file_bytes=128 << 10)  # whose images are all on the disk
    before = pictures(one, np.arange(len(one.feed._memory)))

    with SegmentIndex(one.store.path, one.store.records, keep=True) as index:
        evicted = evict(one.store, index, one.store.bytes // 2)
    assert evicted.segments and any(evicted.moved.values())
    one.feed.moved(evicted)
    rows = np.unique(np.concatenate([group.rows for group in one.feed._sampling.parts[0]._groups.values()]))
    steps = {position: header.steps for position, header in one.store.scan_headers()}
    damaged = {Position(*each) for each in one.saved()["facts"]["damaged"]}
    places = {evicted.moved.get(each.position, each.position) for each in stored[::25]} - {None}
    assert damaged == places <= steps.keys() and len(places) < len(stored[::25])
    assert 0 < len(rows) <= sum(steps.values()) < len(before)
    for images in one.feed._memory.images.values():  # files that are still open are what they were
        images._files._open.clear()
        images._decoded.clear()
        images._decoded_bytes = 0
    assert np.array_equal(pictures(one, rows), before[rows])
    updates = len(one.metrics)
    one.give([whole.segment for whole in wholes(config, 8, seed=5)])
    assert one.learn() > 2 and len(one.metrics) > updates


def pictures(one: Fed, rows: Any) -> Any:
    """What was seen before these steps."""
    out = one.feed._memory.buffers(len(rows))
    one.feed._memory.gather(rows, out)
    return out["now"]["observation.images.front"].numpy().copy()


# ---- damage


def spoil(store: SegmentStore, position: Position, at: int, count: int = 8) -> None:
    path = store.path / "records" / f"{position.file:016d}.log"
    with path.open("r+b") as stream:
        stream.seek(position.offset + at)
        stream.write(b"\xc1" * count)


HEADER, BODY = 40, -400


@pytest.mark.parametrize("at", (HEADER, BODY), ids=("header", "body"))
def test_a_record_that_was_damaged_before_it_was_taken_in_is_lost_and_stays_so(
    fed: Callable[..., Fed], at: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(MIXED)
    segments = pieces_of(wholes(config, 20))
    one = fed(config)
    stored = one.put(segments)
    damaged = stored[3].position
    spoil(one.store, damaged, at % damaged.length)
    one.feed.take(stored)
    one.learn(3)
    assert one.feed.counts()["episodes_lost"] == 1 and "a segment is lost" in caplog.text
    saved = one.saved()
    one.learn()
    one.close()
    caplog.clear()
    again = fed(config, saved)
    again.learn()
    assert "equal priorities" not in caplog.text
    assert_same(again.saved(), one.saved())


@pytest.mark.parametrize("waiting", (False, True), ids=("learnt-from", "waiting"))
def test_a_header_that_was_damaged_between_two_runs_costs_its_segment(
    fed: Callable[..., Fed], waiting: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(MIXED)
    one = fed(config)
    stored = one.put(pieces_of(wholes(config, 20)))
    one.feed.take(stored)
    one.learn(3)
    saved = one.saved()
    spoil(one.store, stored[-2 if waiting else 2].position, HEADER)
    one.close()
    again = fed(config, saved)
    again.learn()
    assert ("equal priorities" in caplog.text) != waiting
    assert len(again.metrics) > 3


def test_images_that_cannot_be_read_cost_their_steps_and_a_resumed_run_knows_which(
    fed: Callable[..., Fed], caplog: pytest.LogCaptureFixture
) -> None:
    config, lossless = tiny(MIXED, *CAMERA), Encodings("raw", other=ImageEncoding("lossless"))
    one = fed(config)
    segments = [replace(segment, encodings=lossless) for segment in pieces_of(wholes(config, 24))]
    stored = one.put(segments)
    one.feed.take(stored)
    one.learn(2)
    saved = one.saved()
    known = [each.position for each in stored if each.position[:2] < tuple(saved["facts"]["end"][:2])]
    for position in known[::3]:
        place = records.image_places(one.store.read_record(position))["observation.images.front"]
        spoil(one.store, position, place.offset + place.length // 2)
    one.close()

    again = fed(config, saved)  # whose images are all on the disk
    again.learn(3)
    middle, lost = again.saved(), again.feed.counts()["episodes_lost"]
    again.learn(2)
    end = again.saved()
    again.close()
    assert 0 < lost == len(middle["facts"]["unreadable"]) <= len(known[::3])
    assert {Position(*place) for _, *place in middle["facts"]["unreadable"]} <= set(known[::3])
    assert sum(int(count) for count in re.findall(r"(\d+) stored segments are drawn no more", caplog.text)) == len(
        end["facts"]["unreadable"]
    )

    caplog.clear()
    resumed = fed(config, middle)
    assert resumed.feed.counts()["episodes_lost"] == lost
    resumed.learn(2)
    assert "equal priorities" not in caplog.text
    assert_same(resumed.saved(), end)


# ---- who hears of it


def test_who_hears_of_a_segment_may_save_the_run(fed: Callable[..., Fed]) -> None:
    """What a checkpoint counts is what lies before the place from which a resumed run reads on."""
    config = tiny()
    one = fed(config)
    saved: list[dict[str, Any]] = []
    one.feed._heard = lambda segment, finished: saved.append(one.feed.facts())
    one.give(pieces_of(wholes(config, 4)))
    assert len(saved) > 3
    for facts in saved:
        headers = [header for position, header in one.store.scan_headers() if position[:2] < tuple(facts["end"][:2])]
        assert facts["env_steps"] == sum(header.steps for header in headers)


def test_nobody_hears_while_weights_go_out_and_none_is_told_before_the_run_goes_on(fed: Callable[..., Fed]) -> None:
    config = tiny()
    one = fed(config)
    one.give(pieces_of(wholes(config, 20)))
    heard = len(one.heard)
    assert heard and one.learn(1) == 1
    assert len(one.heard) == heard and one.feed.env_steps > sum(segment.steps for segment, _ in one.heard)
    one.feed.take(())
    assert one.feed.env_steps == sum(segment.steps for segment, _ in one.heard)
    saved = one.saved()
    one.put(pieces_of(wholes(config, 4, seed=1)))
    one.close()
    assert fed(config, saved).heard == []


def test_images_that_cannot_be_decoded_end_no_run_that_shows_them(
    fed: Callable[..., Fed], caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(*CAMERA)
    one = fed(config)
    segments = [replace(segment, encodings=Encodings("raw", other=ImageEncoding("lossless")))
                for segment in pieces_of(wholes(config, 4))]  # fmt: skip
    images = segments[1].observations["observation.images.front"]
    images[:] = np.arange(images.size).reshape(images.shape) // 7 % 256  # noise would be stored as it is
    data = [bytearray(records.encode(segment, session=1, sequence=i)) for i, segment in enumerate(segments)]
    place = records.image_places(memoryview(data[1]))["observation.images.front"]
    middle, end = place.offset + place.length // 2, place.offset + place.length
    data[1][middle:end] = b"\xff" * (end - middle)
    data[1] = resealed(data[1])
    outcomes = one.store.append(data)
    assert [outcome.kind for outcome in outcomes] == ["stored"] * len(data)
    one.feed.take([StoredSegment(each.position, each.header, one.store) for each in outcomes])  # type: ignore[arg-type]
    assert len(one.heard) >= 1 and "can't be shown" in caplog.text


def resealed(record: bytearray) -> bytearray:
    """With the checksum of what it holds."""
    record[8:16] = xxhash.xxh3_64_intdigest(memoryview(record)[16:]).to_bytes(8, "little")
    return record


def test_a_former_run_that_is_not_there_and_a_part_of_nothing_are_said_at_the_start(tmp_path: Path) -> None:
    cells = parts_of(())[1]
    for wrong, said in (
        (f"replay.runs=[{tmp_path / 'gone'}]", "holds no stored segments"),
        ("replay.sampling=[{robot: pandda}]", "'pandda' is none of this run's"),
        ("replay.sampling=[{task: dance}]", "'dance' is in no instruction"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_replay(tiny(wrong), cells)
    check_replay(tiny("replay.sampling=[{robot: panda}]"), cells)


def test_steps_that_would_be_drawn_twice_as_often_are_refused(fed: Callable[..., Fed], tmp_path: Path) -> None:
    former = fed(tiny(), path="former/segments")
    former.give(pieces_of(wholes(tiny(), 4)))
    path = tmp_path / "former"
    for again in (path, path / "segments", tmp_path / "former" / ".." / "former"):
        with pytest.raises(ConfigError, match="are the same, and would be drawn from twice"):
            check_replay(tiny(f"replay.runs=[{path}, {again}]"), parts_of(())[1])
    config, name = tiny(), str(path)
    again_by_name = config.model_copy(update={"replay": config.replay.model_copy(update={"runs": (name, name)})})
    with pytest.raises(ConfigError, match="are the same"):
        check_replay(again_by_name, parts_of(())[1])
    former.close()
    with pytest.raises(ConfigError, match="names this run itself"):
        fed(tiny(f"replay.runs=[{path}]"), path="former/segments")


def test_what_cannot_be_read_of_a_former_run_is_known_by_its_name(fed: Callable[..., Fed], tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        former = fed(tiny(*CAMERA), path=f"{name}/segments")
        former.give(pieces_of(wholes(tiny(*CAMERA), 6, seed=seed)))
    one, two = tmp_path / "one", tmp_path / "two"
    run = fed(tiny(*CAMERA, f"replay.runs=[{one}, {two}]"))
    run.give(pieces_of(wholes(tiny(*CAMERA), 10)))
    source, position = run.feed._memory._places[0]  # type: ignore[misc]
    run.feed._sampling.keep(run.feed._memory.drop_at([(source, position)]))
    saved, left = run.saved(), len(run.feed._sampling)
    run.close()
    for order in ([one, two], [two, one]):
        again = fed(tiny(*CAMERA, f"replay.runs=[{', '.join(map(str, order))}]"), saved)
        assert len(again.feed._sampling) == left
        assert [log.path for log, _ in again.feed._memory.dropped] == [one / "segments" / "records"]
        again.close()
    fed(tiny(*CAMERA), saved)  # without them: nothing of theirs is missed


@pytest.mark.parametrize("key", (b"observation.images.wrist", b"observation.state", b"observation.images.front"))
def test_of_a_segment_that_is_given_up_nothing_stays(
    fed: Callable[..., Fed], monkeypatch: pytest.MonkeyPatch, key: bytes
) -> None:
    config = tiny("observations.cameras=[front, wrist]", *CAMERA[1:])
    cells = cells_of(config)
    monkeypatch.setitem(globals(), "parts_of", lambda cameras: (Inputs(config, cells), cells))
    one = fed(config)
    stored = one.put(pieces_of(wholes(config, 20)))
    one.feed.take(stored)
    saved, count = one.saved(), len(one.feed._memory)
    start, steps = (int(one.feed._memory._segments[name][1]) for name in ("start", "steps"))
    kept = np.r_[0:start, start + steps : count]
    right = seen(one, np.arange(count))
    one.close()
    position = stored[1].position
    path = one.store.path / "records" / f"{position.file:016d}.log"
    data = bytearray(path.read_bytes())
    data[bytes(data).find(key, position.offset) + len(key) - 2] ^= 1  # another name in its header
    path.write_bytes(data)
    again = fed(config, saved)
    assert len(again.feed._memory) == len(kept) and again.feed.counts()["episodes_lost"] == 1
    for name, found in seen(again, np.arange(len(kept))).items():
        assert np.array_equal(found, right[name][kept]), name


def seen(one: Fed, rows: Any) -> dict[str, Any]:
    """What was seen before and after these steps."""
    out = one.feed._memory.buffers(len(rows))
    one.feed._memory.gather(rows, out)
    return {f"{when} {key}": value.numpy().copy() for when in ("now", "next") for key, value in out[when].items()}


def test_more_memory_than_there_is_is_a_mistake_of_the_config(fed: Callable[..., Fed]) -> None:
    with pytest.raises(ConfigError, match=r"replay\.cache_bytes: this machine has not so much"):
        fed(tiny(*CAMERA, "replay.cache_bytes=1000000000000000000"))


@pytest.mark.parametrize("encoding", ("raw", "lossless"))
def test_a_former_run_that_somebody_prunes_meanwhile_shows_no_wrong_images(
    fed: Callable[..., Fed], tmp_path: Path, encoding: str
) -> None:
    config, camera = tiny(*CAMERA), "observation.images.front"
    segments = pieces_of(wholes(config, 16))
    if encoding != "raw":
        segments = [replace(one, encodings=Encodings("raw", other=ImageEncoding("lossless"))) for one in segments]
    with SegmentStore(tmp_path / "former", sync="process", file_bytes=200 << 10) as former:
        former.append([records.encode(one, session=1, sequence=i) for i, one in enumerate(segments)])
        path = tmp_path / "former"
        images = fed(tiny(*CAMERA, f"replay.runs=[{path}]")).feed._memory.images[camera]
        kept: dict[int, list[Position]] = {}
        for position, _ in former.scan_headers():
            if position.file < former.end.file:
                kept.setdefault(position.file, []).append(position)
        former.keep_only({file: (places[1:], 1) for file, places in kept.items()})
        right = np.concatenate([one.observations[camera] for one in segments])
        out, refused = torch.empty((1, *right.shape[1:]), dtype=torch.uint8), 0
        for row in range(len(right)):
            try:
                images.gather(np.array([row]), out)
            except LogError:
                refused += 1
            else:
                assert np.array_equal(out[0].numpy(), right[row])
        assert 0 < refused < len(right)
