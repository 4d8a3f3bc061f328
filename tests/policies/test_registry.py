"""Policies by kind: built-in, registered, and by the entry points of installed packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies import FlowMLP, make_policy, policies, register_policy, registry
from policies.errors import PolicyConfigError, UnknownPolicyError

OPTIONS = {"features": {"observation.state": (3,)}, "horizon": 2, "action_dim": 2}


class Mine(FlowMLP):
    pass


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))


def test_builtin_kind() -> None:
    assert isinstance(make_policy("flow_mlp", **OPTIONS), FlowMLP)


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UnknownPolicyError, match="Did you mean 'flow_mlp'"):
        make_policy("flow_mpl", **OPTIONS)


def test_unknown_option_is_named() -> None:
    with pytest.raises(PolicyConfigError, match="horizn"):
        make_policy("flow_mlp", **OPTIONS, horizn=4)


def test_a_kind_can_be_registered_once() -> None:
    register_policy("mine", Mine)
    register_policy("mine", Mine)
    assert isinstance(make_policy("mine", **OPTIONS), Mine)
    with pytest.raises(PolicyConfigError, match="taken"):
        register_policy("mine", FlowMLP)


def test_an_installed_package_adds_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real distribution on the path, as pip leaves it, not known to anything here."""
    (tmp_path / "their_policies.py").write_text("from policies import FlowMLP\n\nclass Theirs(FlowMLP):\n    pass\n")
    info = tmp_path / "their_policies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-policies\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[robotlearn.policies]\ntheirs = their_policies:Theirs\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "theirs" in policies()
    assert type(make_policy("theirs", **OPTIONS)).__name__ == "Theirs"
