"""check_policy finds each way in which a policy can break its contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies import Chunk, FlowMLP, Plan, check_policy
from policies.errors import ImitationOnlyError, PolicyCheckError


class Good(FlowMLP):
    def __init__(self) -> None:
        super().__init__({"observation.state": (6,)}, horizon=3, action_dim=2, hidden=(16,))


class NoHorizon(Good):
    def __init__(self) -> None:
        super().__init__()
        self.horizon = 0


class GlobalNoise(Good):
    def noise(self, batch, rng):  # type: ignore[no-untyped-def]
        return torch.randn(batch, 3, 3, 2)


class UnseededNoise(Good):
    def noise(self, batch, rng):  # type: ignore[no-untyped-def]
        return super().noise(batch, np.random.default_rng(0))


class WithChunk(Good):
    def act(self, obs, noise, explore):  # type: ignore[no-untyped-def]
        return self.change(super().act(obs, noise, explore), obs, noise, explore)

    def change(self, chunk, obs, noise, explore):  # type: ignore[no-untyped-def]
        raise NotImplementedError


class DoubleActions(WithChunk):
    def change(self, chunk, obs, noise, explore):  # type: ignore[no-untyped-def]
        return Chunk(chunk.actions.double(), chunk.path, chunk.stochastic, chunk.log_prob)


class NotFinite(WithChunk):
    def change(self, chunk, obs, noise, explore):  # type: ignore[no-untyped-def]
        return Chunk(chunk.actions / 0, chunk.path, chunk.stochastic, chunk.log_prob)


class PathElsewhere(WithChunk):
    def change(self, chunk, obs, noise, explore):  # type: ignore[no-untyped-def]
        return Chunk(chunk.actions, chunk.path + 1, chunk.stochastic, chunk.log_prob)


class NeverExplores(Good):
    def act(self, obs, noise, explore):  # type: ignore[no-untyped-def]
        return super().act(obs, noise, False)


class AlwaysExplores(Good):
    def act(self, obs, noise, explore):  # type: ignore[no-untyped-def]
        return super().act(obs, noise, True)


class SaysItHasNoLogProb(Good):
    has_log_prob = False


class ImitatesYetExplores(SaysItHasNoLogProb):
    def log_prob(self, obs, path, stochastic):  # type: ignore[no-untyped-def]
        raise ImitationOnlyError("none")


class GuessesItsLogProb(SaysItHasNoLogProb):
    def act(self, obs, noise, explore):  # type: ignore[no-untyped-def]
        return super().act(obs, noise, False)


class MixesRobots(WithChunk):
    def change(self, chunk, obs, noise, explore):  # type: ignore[no-untyped-def]
        return Chunk(chunk.actions + chunk.actions.mean(0), chunk.path, chunk.stochastic, chunk.log_prob)


class OtherLogProb(Good):
    def log_prob(self, obs, path, stochastic):  # type: ignore[no-untyped-def]
        return super().log_prob(obs, path, stochastic) + 1e-3


class NoGradient(Good):
    def log_prob(self, obs, path, stochastic):  # type: ignore[no-untyped-def]
        return super().log_prob(obs, path, stochastic).detach()


class LearnsPadding(Good):
    def loss(self, obs, actions, valid, generator=None):  # type: ignore[no-untyped-def]
        return super().loss(obs, actions, torch.ones_like(valid), generator)


class MovesStatistics(WithChunk):
    def change(self, chunk, obs, noise, explore):  # type: ignore[no-untyped-def]
        self.observation.normalizer.mean += 0.1
        return chunk


class ForgetsStatistics(Good):
    def set_statistics(self, stats):  # type: ignore[no-untyped-def]
        super().set_statistics(stats)
        self.offset = torch.from_numpy(stats["action"].mean).float()

    def act(self, obs, noise, explore):  # type: ignore[no-untyped-def]
        c = super().act(obs, noise, explore)
        return Chunk(c.actions + self.offset, c.path, c.stochastic, c.log_prob)


class UnwritableContract(Good):
    def contract(self):  # type: ignore[no-untyped-def]
        return super().contract() | {"device": torch.device("cpu")}


class ContractOfWeights(Good):
    def contract(self):  # type: ignore[no-untyped-def]
        return super().contract() | {"sum": sum(p.sum().item() for p in self.parameters())}


class IgnoresPlans(Good):
    def act_guided(self, obs, noise, plan, largest):  # type: ignore[no-untyped-def]
        return (self.act(obs, noise, False),) * 2


class SharesPlans(Good):
    def act_guided(self, obs, noise, plan, largest):  # type: ignore[no-untyped-def]
        shared = Plan(plan.actions.mean(0, keepdim=True).expand_as(plan.actions), plan.left, plan.delay)
        return super().act_guided(obs, noise, shared, largest)


class GuidesAll(Good):
    def act_guided(self, obs, noise, plan, largest):  # type: ignore[no-untyped-def]
        whole = torch.full_like(plan.left, self.horizon)
        return super().act_guided(obs, noise, Plan(plan.actions, whole, whole), largest)


class ExploresAlong(Good):
    def act_guided(self, obs, noise, plan, largest):  # type: ignore[no-untyped-def]
        return (self.act(obs, noise, True),) * 2


class NeverFree(Good):
    def act_guided(self, obs, noise, plan, largest):  # type: ignore[no-untyped-def]
        guided, _ = super().act_guided(obs, noise, plan, largest)
        return guided, guided


def test_a_good_policy_passes_and_is_left_as_it_was() -> None:
    policy = Good()
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    check_policy(policy)
    assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())


@pytest.mark.parametrize(
    ("policy", "rule", "fault"),
    [
        (NoHorizon, "declares", "horizon is 0"),
        (GlobalNoise, "generator alone", "same seed gave other"),
        (UnseededNoise, "generator alone", "another seed gave the same"),
        (DoubleActions, "act returns", "float64"),
        (NotFinite, "act returns", "not finite"),
        (PathElsewhere, "path starts at", "not noise"),
        (NeverExplores, "explore=True", "no stochastic step"),
        (ImitatesYetExplores, "without log-probabilities no step", "one is with explore=True"),
        (GuessesItsLogProb, "raises ImitationOnlyError", "gave a number"),
        (AlwaysExplores, "explore=False", "stochastic with explore=False"),
        (MixesRobots, "own observation", "differs by"),
        (OtherLogProb, "equals the recorded", "0.001"),
        (NoGradient, "carries a gradient", "has none"),
        (LearnsPadding, "not valid", "changed it"),
        (MovesStatistics, "acting leaves", "act changed observation.normalizer.mean"),
        (ForgetsStatistics, "state_dict holds", "acts differently"),
        (UnwritableContract, "contract", "JSON"),
        (ContractOfWeights, "contract", "other weights changed it"),
        (IgnoresPlans, "act_guided", "changed nothing"),
        (SharesPlans, "act_guided", "a row alone"),
        (GuidesAll, "act_guided", "without a plan"),
        (ExploresAlong, "act_guided", "stochastic"),
        (NeverFree, "act_guided", "its free chunks are others"),
    ],
)
def test_each_fault_is_found_and_named(policy: type[Good], rule: str, fault: str) -> None:
    with pytest.raises(PolicyCheckError) as caught:
        check_policy(policy())
    assert rule in caught.value.rule and fault in caught.value.fault and caught.value.consequence
