"""What can go wrong in `policies`: one tree, so that a caller can catch all of it or one kind."""

from collections.abc import Iterable
from difflib import get_close_matches


class PolicyError(Exception):
    """Base of every error raised by `policies`."""


class PolicyConfigError(PolicyError):
    """Raised when a policy is asked for with settings that can't work; says what would have happened."""


class UnknownPolicyError(PolicyError):
    """Raised when no policy of that kind is registered; names the nearest one."""

    def __init__(self, kind: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(kind, names, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"no policy of kind {kind!r} is registered.{hint} Known kinds: {', '.join(names) or 'none'}.")


class ObservationError(PolicyError):
    """Raised when a batch of observations lacks a feature of the policy or has it in another shape."""


class StatisticsError(PolicyError):
    """Raised when normalisation statistics lack a key, have another shape, or are not finite."""


class ImitationOnlyError(PolicyError):
    """Raised when the probability of a chunk is asked of a policy that has none."""


class PolicyCheckError(PolicyError):
    """Raised by `check_policy` when a policy breaks the contract: the rule, the fault seen and what it would cause."""

    def __init__(self, rule: str, fault: str, consequence: str) -> None:
        super().__init__(f"rule: {rule}\nfault: {fault}\nconsequence: {consequence}")
        self.rule, self.fault, self.consequence = rule, fault, consequence
