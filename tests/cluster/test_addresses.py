"""Where a learner on a cluster listens, and how its edges dial it. Needs Ray to be installed, starts none."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("ray")

from robotlearn import cli
from robotlearn.cluster.demand import Node
from robotlearn.cluster.ray_cluster import RayCluster
from robotlearn.cluster.train import bind_address, reachable
from robotlearn.config.learner import LearnerConfig
from robotlearn.errors import ClusterError, ExtraError

HERE, AWAY = (Node(name, name, address, {}, {}) for name, address in (("here", "192.0.2.1"), ("away", "192.0.2.2")))
SECOND_HERE = Node("second", "here", "192.0.2.1", {}, {})


def test_beside_its_edges_a_learner_listens_where_the_config_says() -> None:
    assert bind_address(LearnerConfig(), HERE, [HERE, SECOND_HERE]) == ""


def test_for_edges_on_other_machines_it_listens_at_its_own_address() -> None:
    assert bind_address(LearnerConfig(), HERE, [HERE, AWAY]) == "tcp://192.0.2.1:*"
    fixed = LearnerConfig(bind="127.0.0.1:5555")
    assert bind_address(fixed, HERE, [AWAY]) == "tcp://192.0.2.1:5555"
    everywhere = LearnerConfig(insecure_public=True, bind="0.0.0.0:5555")
    assert bind_address(everywhere, HERE, [AWAY]) == ""


@pytest.mark.parametrize(
    ("listens", "dialled"),
    [
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"),
        ("tcp://0.0.0.0:5555", "tcp://192.0.2.1:5555"),
        ("tcp://[::]:5555", "tcp://192.0.2.1:5555"),
    ],
)
def test_edges_dial_an_address_of_one_machine(listens: str, dialled: str) -> None:
    assert reachable(listens, "192.0.2.1") == dialled


def test_ipv6_addresses_are_in_brackets() -> None:
    learner = Node("v6", "v6", "2001:db8::1", {}, {})
    assert bind_address(LearnerConfig(), learner, [AWAY]) == "tcp://[2001:db8::1]:*"
    assert reachable("tcp://0.0.0.0:5555", "2001:db8::1") == "tcp://[2001:db8::1]:5555"


@pytest.mark.parametrize("address", ["ray://host:10001", "host", "host:0", "local:", "127.0.0.1:99999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match="expected local, auto, or the HOST:PORT"):
        RayCluster(address)


def test_an_address_where_nobody_listens_is_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ClusterError, match="nobody listens there"):
            RayCluster(f"127.0.0.1:{free.getsockname()[1]}")


def test_without_ray_the_option_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExtraError, match=r"pip install 'ray>=2\.50'"):
        cli._ray_training()
