"""A batch edge by groups: it begins whole ones whatever it is granted, and only for a learner with the same size."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from robotlearn.algorithms.chunks import Episode, join
from robotlearn.config import Config, load_config
from robotlearn.contract import contract
from robotlearn.edge.batch import BatchEdge
from robotlearn.errors import ContractError
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy, to_arrays
from robotlearn.wire.segment import Segment
from tests.edge.conftest import LearnersEnd
from tests.waiting import until


def config(*more: str) -> Config:
    small = [
        "policy.hidden=[8]", "algorithm.group=4", "learner.episodes_per_update=8", "episode_steps=6", "edges.0.arms=8"
    ]  # fmt: skip
    return load_config("reach-grpo", [*small, *more])


def test_another_size_of_groups_is_refused_naming_the_key(tmp_path: Path) -> None:
    end = LearnersEnd(tmp_path / "learner", contract(config()))
    other = config("algorithm.group=8")
    edge = BatchEdge(other, other.edges[0], end.address, tmp_path / "edge")
    try:
        with pytest.raises(ContractError, match=r"algorithm\.group: the learner has 4, the edge has 8"):
            edge.run(threading.Event())
    finally:
        edge.close()
        end.close()


@pytest.mark.parametrize("cut_off", [False, True], ids=["granted", "cut off"])
def test_all_that_begins_is_whole_groups_shared_out_over_the_cells(tmp_path: Path, cut_off: bool) -> None:
    """Two tasks, 8 arms each, episodes of many lengths; cut off it may begin 27 of them, which are six groups."""
    chosen = config("task=[reach,push]", "observations.instruction=true", "edges.0.arms=16",
                    f"edges.0.offline_episodes={27 if cut_off else 0}")  # fmt: skip
    end = LearnersEnd(tmp_path / "learner", contract(chosen), bound=32)
    end.gate.group = 4
    edge = BatchEdge(chosen, chosen.edges[0], end.address, tmp_path / "edge")
    for rollout in edge._rollouts:
        rollout.env.referee.episode_steps = np.arange(1, 9)  # of each arm
    stop = threading.Event()
    thread = threading.Thread(target=edge.run, args=(stop,))
    segments: list[Segment] = []
    try:
        thread.start()
        until(lambda: edge._uplink.state == "connected", "the learner")  # with weights alone it would begin by itself
        end.publisher.publish(3, to_arrays(build_policy(chosen, Inputs(chosen))))
        until(lambda: end.gate.pending == 32, "the first episodes")
        if cut_off:
            end.server.close()
            until(lambda: edge._spool.lasts == 32 + 24, "those that it may begin alone")
        else:
            end.gate.consumed(8)
            until(lambda: end.gate.pending == 32, "as many again")
            segments = [segment for _, segment in end.store.scan()]
        until(lambda: not sum(rollout.running for rollout in edge._rollouts), "rest")
    finally:
        stop.set()
        thread.join(20)
        if cut_off:
            segments = [segment for _, segment in end.store.scan()]
        edge.close()
        end.close()
    assert edge._count("episodes") == (56 if cut_off else 40)
    groups: dict[int, list[Episode]] = defaultdict(list)
    episodes: dict[int, list[Segment]] = defaultdict(list)
    for segment in segments:
        episodes[segment.episode].append(segment)
    for parts in episodes.values():
        episode = join(parts)
        assert episode.group is not None
        groups[episode.group.id].append(episode)
    assert groups and all(len(members) == 4 for members in groups.values())
    tasks = [rollout.counts.episodes for rollout in edge._rollouts]
    assert min(tasks) >= 8 and all(count % 4 == 0 for count in tasks)
