"""What a run asks of a cluster, and what is said when the cluster can't give it. No Ray here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hal.data import data_path
from robotlearn.cluster.demand import (
    GPU_SHARE,
    LEARNER,
    Demand,
    Node,
    announced,
    check,
    demands,
    edge_arms,
    fit,
    waiting_for,
)
from robotlearn.config.config import Config
from robotlearn.config.load import load_config
from robotlearn.errors import ClusterError
from tests.e2e.harness import batch, paced, tiny

ARMS = "robot:panda"


def node(name: str, free: dict[str, float] | None = None, **total: float) -> Node:
    there = {ARMS if key == "arms" else key: float(amount) for key, amount in total.items()}
    return Node(f"id-{name}", name, f"192.0.2.{ord(name[0]) % 100}", there, there if free is None else free)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def make(*edges: dict[str, Any], robot: str | list[str] = "panda", **sections: Any) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(tiny(*edges, **sections) | {"robot": robot}))
        return load_config(path)

    return make


def test_every_process_asks_for_its_threads_and_its_arms(config: Any) -> None:
    run = config(batch("left", arms=128, threads=2), paced("station"), learner={"threads": 3})
    assert demands(run, [node("a", CPU=8, arms=200)]) == [
        Demand(LEARNER, {"CPU": 3}),
        Demand("left", {"CPU": 2, ARMS: 128}),
        Demand("station", {"CPU": 2, ARMS: 1}),  # an arm process and a policy server
    ]


def test_an_edge_asks_for_the_arms_of_each_robot_that_it_has(config: Any, tmp_path: Path) -> None:
    twin = tmp_path / "twin.yaml"
    text = (data_path("hardware_specs") / "panda.yaml").read_text()
    mjcf = data_path("hardware_specs") / "panda" / "panda.xml"
    twin.write_text(text.replace("name: panda\n", "name: twin\n", 1).replace("panda/panda.xml", str(mjcf)))
    run = config(
        batch("both", arms=5), batch("one", arms=4, robot=str(twin)), paced("station", robot="panda"),
        robot=["panda", str(twin)],
    )  # fmt: skip
    assert [edge_arms(run, edge) for edge in run.edges] == [
        {ARMS: 3, "robot:twin": 2},
        {"robot:twin": 4},
        {ARMS: 1},
    ]


def test_the_learner_asks_for_a_gpu_where_there_is_one_for_it(config: Any) -> None:
    nodes = [node("a", CPU=8, arms=8), node("b", CPU=8, GPU=2)]
    run = config(learner={"device": "auto"})
    assert demands(run, nodes)[0].resources == {"CPU": 1, "GPU": 1}
    assert demands(run, nodes, learner_node="id-a")[0].resources == {"CPU": 1}
    assert demands(run, nodes, learner_node="id-b")[0].resources == {"CPU": 1, "GPU": 1}
    assert demands(config(), nodes)[0].resources == {"CPU": 1}  # on the CPU


def test_what_must_have_a_gpu_asks_for_one_that_is_not_there(config: Any) -> None:
    run = config(batch("left", arms=8, device="cuda"), learner={"device": "cuda:0"})
    said = refusal(run, node("a", CPU=8, arms=8))
    assert "missing 1.1 GPUs" in said and said.endswith("ray start --address=192.0.2.1:6379")


@pytest.mark.parametrize(
    ("nodes", "share"),
    [
        ([node("a", CPU=8, GPU=1, arms=1), node("b", CPU=8, GPU=1)], True),
        ([node("a", CPU=8, GPU=1, arms=1)], False),  # the learner has it
        ([node("a", CPU=8, GPU=2, arms=1), node("b", CPU=8, arms=1)], False),  # it may come to b
        ([node("a", CPU=8, arms=1), node("b", CPU=8, GPU=2)], False),
    ],
    ids=["two GPUs", "one GPU", "a station without", "none beside the robot"],
)
def test_a_policy_server_shares_the_gpu_of_its_robots_node(config: Any, nodes: list[Node], share: bool) -> None:
    _, station = demands(config(paced("station", device="auto"), learner={"device": "auto"}), nodes)
    assert station.resources == {"CPU": 2, ARMS: 1} | ({"GPU": GPU_SHARE} if share else {})


def test_a_local_ray_announces_the_arms_and_at_least_the_cpus_of_the_run(config: Any) -> None:
    wanted = demands(config(batch("left", arms=128), batch("right", arms=64)), [])
    assert announced(wanted, cpus=2) == {"CPU": 3, ARMS: 192}
    assert announced(wanted, cpus=16) == {"CPU": 16, ARMS: 192}


def refusal(run: Config, *nodes: Node, learner_node: str | None = None, token: bool = False) -> str:
    with pytest.raises(ClusterError) as caught:
        check(demands(run, nodes, learner_node=learner_node), nodes, "192.0.2.1:6379", learner_node, token=token)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_is_named_with_the_command_that_adds_it(config: Any) -> None:
    run = config(batch("left", arms=128), batch("right", arms=128))
    said = refusal(run, node("a", CPU=8, arms=128), node("b", CPU=4))
    assert said == (
        "the run needs 256 x robot:panda and 3 CPUs; of that, the cluster at 192.0.2.1:6379 has 128 x robot:panda and "
        "12 CPUs (a (192.0.2.97) has 128 x robot:panda and 8 CPUs; b (192.0.2.98) has 0 x robot:panda and 4 CPUs): "
        "missing 128 x robot:panda; start a node with: "
        "ray start --address=192.0.2.1:6379 --resources='{\"robot:panda\": 128}'"
    )
    said = refusal(config(batch("left", arms=1), learner={"threads": 9}), node("a", CPU=8, arms=128), token=True)
    assert said.endswith("missing 2 CPUs; start a node with: RAY_AUTH_MODE=token ray start --address=192.0.2.1:6379")


def test_arms_of_one_edge_have_to_be_on_one_node(config: Any) -> None:
    run = config(batch("left", arms=128))
    assert "no node alone has the 128 x robot:panda and 1 CPU of edge left" in refusal(
        run, node("a", CPU=2, arms=64), node("b", CPU=2, arms=64)
    )
    check(demands(run, []), [node("a", CPU=1), node("b", CPU=1, arms=128)], "x:1")


def test_processes_that_fit_alone_but_not_side_by_side_are_refused(config: Any) -> None:
    run = config(batch("left", arms=100), batch("right", arms=100))
    said = refusal(run, node("a", CPU=8, arms=150), node("b", CPU=8, arms=50))
    assert "don't fit side by side: the learner 1 CPU, edge left 100 x robot:panda and 1 CPU, edge right" in said


def test_a_resumed_learner_has_to_fit_beside_its_run_folder(config: Any) -> None:
    run = config(batch("left"), learner={"threads": 4})
    nodes = [node("a", CPU=2, arms=64), node("b", CPU=8)]
    check(demands(run, nodes), nodes, "x:1")
    assert "the learner needs 4 CPUs beside its run folder, on a (192.0.2.97), which has 2 CPUs" in refusal(
        run, *nodes, learner_node="id-a"
    )


def test_an_arrangement_is_found_that_the_largest_gap_would_miss() -> None:
    wanted = [Demand(LEARNER, {"CPU": 3}), Demand("a", {"CPU": 2, ARMS: 1}), Demand("b", {"CPU": 2, ARMS: 1})]
    both, bare = node("a", CPU=4, arms=2), node("b", CPU=3)
    assert fit(wanted, [both, bare]) and fit(wanted, [bare, both])
    assert not fit(wanted, [both, bare], learner_node="id-a")
    assert fit(wanted, [both, bare], learner_node="id-b")
    assert not fit(wanted, [both, node("b", CPU=2)])


def test_a_hopeless_search_among_many_nodes_ends() -> None:
    wanted = [Demand(f"edge-{i}", {"CPU": 2.0 + i / 100}) for i in range(40)]
    fit(wanted, [node(chr(97 + i % 26), CPU=3 + i / 50) for i in range(39)])


def test_who_waits_says_for_what_where_and_who_has_it() -> None:
    wanted = [Demand(LEARNER, {"CPU": 1}), Demand("left", {"CPU": 1, ARMS: 100})]
    nodes = [node("a", CPU=4), node("b", {"CPU": 3, ARMS: 28}, CPU=4, arms=128)]
    said = waiting_for(wanted, nodes, {"the run /x": {"CPU": 2, ARMS: 100}, "another": {"CPU": 1}})
    assert said == (
        "100 x robot:panda (a (192.0.2.97) has 0 x robot:panda free of 0 x robot:panda; b (192.0.2.98) has "
        "28 x robot:panda free of 128 x robot:panda; the run /x holds 100 x robot:panda)"
    )
