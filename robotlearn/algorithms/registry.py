"""Algorithms by name. A third party adds one through the entry-point group `robotlearn.algorithms`."""

from collections.abc import Callable
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

from policies.base import Policy
from robotlearn.algorithms.base import Algorithm
from robotlearn.algorithms.errors import AlgorithmError, UnknownAlgorithmError
from robotlearn.algorithms.grpo import GRPO
from robotlearn.algorithms.hg_dagger import HGDagger
from robotlearn.algorithms.ppo import PPO
from robotlearn.algorithms.sac import SAC

GROUP = "robotlearn.algorithms"

Factory = Callable[[Policy, Any, int], Algorithm]
"""(policy, config, seed) -> Algorithm; `config` is the run's `algorithm` section, whose `name` chose the factory."""

_factories: dict[str, Factory] = {"ppo": PPO, "grpo": GRPO, "sac": SAC, "rlpd": SAC, "hgdagger": HGDagger}


def register_algorithm(name: str, factory: Factory) -> None:
    """Make an algorithm known. Raises AlgorithmError when the name is taken."""
    if _factories.get(name, factory) is not factory:
        raise AlgorithmError(
            f"algorithm name {name!r} is taken by {_factories[name]!r}: which one ran would be chance."
        )
    _factories[name] = factory


def algorithms() -> list[str]:
    """Every known name, sorted: registered ones and those of installed packages (which are not imported for it)."""
    return sorted({*_factories, *(point.name for point in entry_points(group=GROUP))})


def algorithm_factory(name: str) -> Factory:
    """What makes the algorithm `name`; imports its package. Raises UnknownAlgorithmError, naming the nearest."""
    factory = _factories.get(name)
    if factory is None:
        for point in entry_points(group=GROUP, name=name):
            factory = _factories[name] = point.load()
    if factory is None:
        known = algorithms()
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownAlgorithmError(f"no algorithm {name!r} is registered.{hint} Known: {', '.join(known)}.")
    return factory


def make_algorithm(name: str, policy: Policy, config: Any, seed: int) -> Algorithm:
    """Build the algorithm `name` for a policy.

    Raises:
        UnknownAlgorithmError: as `algorithm_factory`.
        AlgorithmError: options that it does not have.
    """
    factory = algorithm_factory(name)
    try:
        return factory(policy, config, seed)
    except TypeError as error:
        raise AlgorithmError(f"algorithm {name!r}: {error}.") from error
