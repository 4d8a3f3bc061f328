from __future__ import annotations

import pytest

from robotlearn.config import is_loopback, normal_address


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("127.0.0.1:5555", "tcp://127.0.0.1:5555"),
        ("tcp://*:1", "tcp://*:1"),
        ("lab-gpu.example.org:65535", "tcp://lab-gpu.example.org:65535"),
        ("tcp://[::1]:5555", "tcp://[::1]:5555"),
    ],
)
def test_an_address_is_brought_into_its_normal_form(given: str, normal: str) -> None:
    assert normal_address(given) == normal


@pytest.mark.parametrize(
    "given",
    [
        "",
        "127.0.0.1",
        "tcp://:5555",
        "tcp://host:0",
        "tcp://host:65536",
        "ipc:///x",
        "udp://h:1",
        "a b:1",
        "::1:5",
        5555,
        None,
    ],
)
def test_what_is_no_address_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="an address tcp://HOST:PORT with a port from 1 to 65535"):
        normal_address(given)


def test_one_cannot_connect_to_any_port() -> None:
    with pytest.raises(ValueError, match=r"65535$"):
        normal_address("tcp://127.0.0.1:*", any_port=False)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("tcp://127.0.0.1:5", True),
        ("tcp://127.9.9.9:5", True),
        ("tcp://[::1]:5", True),
        ("tcp://localhost:*", True),
        ("tcp://0.0.0.0:5", False),
        ("tcp://*:5", False),
        ("tcp://[::]:5", False),
        ("tcp://192.168.1.4:5", False),
        ("tcp://127.0.0.1.example.org:5", False),
    ],
)
def test_only_what_stays_on_this_machine_is_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
