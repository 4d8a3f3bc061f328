"""Policies by kind. A third party adds one through the entry-point group `robotlearn.policies`."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from policies.base import Policy
from policies.errors import PolicyConfigError, UnknownPolicyError
from policies.flow_mlp import FlowMLP
from policies.flow_transformer import FlowTransformer
from policies.gaussian import GaussianPolicy
from policies.squashed_gaussian import SquashedGaussianPolicy

GROUP = "robotlearn.policies"

Factory = Callable[..., Policy]

VLAS = ("smolvla", "pi0", "pi05")
IMITATORS = ("act", "diffusion")


def _of_lerobot(kind: str, **options: Any) -> Policy:
    try:
        import lerobot.policies.factory  # noqa: F401  # a quarter of a minute

        from policies.imitators.make import make_imitator
        from policies.vla.load import make_vla
    except ImportError as error:
        raise PolicyConfigError(f"{kind} needs the extra vla: pip install 'robotlearn[vla]' ({error}).") from error
    return make_vla(kind, **options) if kind in VLAS else make_imitator(kind, **options)


_factories: dict[str, Factory] = {
    **{policy.kind: policy for policy in (FlowMLP, FlowTransformer, GaussianPolicy, SquashedGaussianPolicy)},
    **{kind: partial(_of_lerobot, kind) for kind in (*VLAS, *IMITATORS)},
}


def register_policy(kind: str, factory: Factory) -> None:
    """Make `factory(**options) -> Policy` known under `kind`. Raises PolicyConfigError when the kind is taken."""
    if _factories.get(kind, factory) is not factory:
        raise PolicyConfigError(
            f"policy kind {kind!r} is taken by {_factories[kind]!r}: which one ran would be chance."
        )
    _factories[kind] = factory


def policies() -> list[str]:
    """Every known kind, sorted: registered ones and those of installed packages (which are not imported for it)."""
    return sorted({*_factories, *(point.name for point in entry_points(group=GROUP))})


def make_policy(kind: str, **options: Any) -> Policy:
    """Build a policy: `make_policy("flow_mlp", features={"observation.state": (8,)}, horizon=4, action_dim=8)`.

    Raises:
        UnknownPolicyError: no such kind; names the nearest.
        PolicyConfigError: options that the kind does not have, or that can't work.
    """
    factory = _factories.get(kind)
    if factory is None:
        for point in entry_points(group=GROUP, name=kind):
            factory = _factories[kind] = point.load()
    if factory is None:
        raise UnknownPolicyError(kind, policies())
    try:
        return factory(**options)
    except TypeError as error:
        raise PolicyConfigError(f"policy {kind!r}: {error}.") from error
