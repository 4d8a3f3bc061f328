"""check_policy: does a policy keep the contract that edges and learners rely on? Shipped for users' own policies."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from policies.base import Chunk, Plan, Policy
from policies.encoder import EMBODIMENT, IMAGES
from policies.errors import ImitationOnlyError, PolicyCheckError
from policies.normalizer import Statistics

TOLERANCE = 1e-4  # of a log-probability per unit, in float32
BATCH = 5


def check_policy(policy: Policy, seed: int = 0) -> None:
    """Run every check on a copy of the policy, with random observations and statistics; takes a second for a small one.

    Raises PolicyCheckError at the first rule that is broken: rule, fault and consequence.
    """
    check_declaration(policy)
    case = _Case.of(policy, seed)
    for check in CHECKS:
        check(case)


@dataclass
class _Case:
    policy: Policy
    observations: dict[str, Tensor]
    noise: Tensor
    statistics: dict[str, Statistics]
    rng: np.random.Generator

    @classmethod
    def of(cls, policy: Policy, seed: int) -> "_Case":
        rng = np.random.default_rng(seed)
        policy = copy.deepcopy(policy)
        # As many rows as the policy has itself: one for each of its embodiments.
        shapes = {key: np.shape(value.mean) for key, value in policy.statistics().items()}
        stats = {k: Statistics(rng.normal(size=s), rng.uniform(0.5, 2.0, s)) for k, s in shapes.items()}
        policy.set_statistics(stats)
        obs = {key: _random(key, shape, rng) for key, shape in policy.features.items()}
        return cls(policy, obs, policy.noise(BATCH, rng), stats, rng)

    def act(self, explore: bool) -> Chunk:
        return self.policy.act(self.observations, self.noise, explore)


def check_declaration(policy: Policy) -> None:
    """features, horizon, action_dim and denoising_steps are declared, and make sense."""
    rule = "a policy declares features, horizon, action_dim and denoising_steps"
    for name in ("horizon", "action_dim", "denoising_steps"):
        size = getattr(policy, name, None)
        if not isinstance(size, int) or size < 1:
            _fail(rule, f"{name} is {size!r}, not a positive int", "edges could not lay out their records")
    features = getattr(policy, "features", None)
    if not isinstance(features, dict) or not features:
        _fail(rule, f"features is {features!r}, not a dict with at least one key", "it would get no observations")


def check_noise(case: _Case) -> None:
    """Noise has the declared shape and comes from the given generator alone."""
    policy = case.policy
    shape = (BATCH, policy.denoising_steps + 1, policy.horizon)
    rule = "noise(batch, rng) is float32 (batch, N+1, H, D), and the generator alone decides it"
    if case.noise.dtype != torch.float32 or case.noise.shape[:3] != shape or case.noise.ndim != 4:
        _fail(rule, f"it is {case.noise.dtype} {tuple(case.noise.shape)}", "paths would not fit into records")
    if case.noise.shape[3] < policy.action_dim:
        _fail(
            rule, f"it has {case.noise.shape[3]} dims for {policy.action_dim} action dims", "actions would be missing"
        )
    first, second, other = (policy.noise(BATCH, np.random.default_rng(s)) for s in (1, 1, 2))
    if not torch.equal(first, second):
        _fail(rule, "the same seed gave other noise", "no run and no arm could be repeated")
    if torch.equal(first, other):
        _fail(rule, "another seed gave the same noise", "every arm would explore alike")


def check_chunk(case: _Case) -> None:
    """Chunks have the declared shapes, are finite, carry no gradient, and their paths start at the noise."""
    policy = case.policy
    b, n, h = BATCH, policy.denoising_steps, policy.horizon
    rule = (
        "act returns actions (B,H,D), path (B,N+1,H,D), stochastic (B,N) bool, log_prob (B,N,H), float32, no gradient"
    )
    for explore in (True, False):
        chunk = case.act(explore)
        expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "actions": ((b, h, policy.action_dim), torch.float32),
            "path": (tuple(case.noise.shape), torch.float32),
            "stochastic": ((b, n), torch.bool),
            "log_prob": ((b, n, h), torch.float32),
        }
        for name, (shape, dtype) in expected.items():
            value: Tensor = getattr(chunk, name)
            if tuple(value.shape) != shape or value.dtype != dtype:
                _fail(rule, f"{name} is {value.dtype} {tuple(value.shape)}", "it would not fit into a record")
            if value.requires_grad:
                _fail(rule, f"{name} carries a gradient", "every chunk would keep its graph in memory")
            if not value.isfinite().all():
                _fail(rule, f"{name} is not finite", "safety would hold the arm, and training would diverge")
        if not torch.equal(chunk.path[:, 0], case.noise[:, 0]):
            _fail("the path starts at the given noise", "path[:, 0] is not noise[:, 0]", "seeds would decide nothing")
        if not torch.equal(chunk.log_prob * ~chunk.stochastic[..., None], torch.zeros_like(chunk.log_prob)):
            _fail(rule, "log_prob is not 0 at a step that is not stochastic", "sums over a chunk would be wrong")


def check_acting(case: _Case) -> None:
    """Acting changes neither weights nor statistics."""
    before = {key: value.clone() for key, value in case.policy.state_dict().items()}
    case.act(True)
    for key, value in case.policy.state_dict().items():
        if not torch.equal(value, before[key]):
            _fail(
                "acting leaves weights and statistics as they are", f"act changed {key}", "versions would name nothing"
            )


def check_exploration(case: _Case) -> None:
    """Acting is a function of observation and noise; only exploration uses the noise of the steps."""
    plain, explored = case.act(False), case.act(True)
    rule = "explore=False is deterministic and uses z_0 only; explore=True has stochastic steps"
    if plain.stochastic.any():
        _fail(rule, "a step is stochastic with explore=False", "evaluations would be of the noisy policy")
    other = case.noise.clone()
    other[:, 1:] = case.policy.noise(BATCH, case.rng)[:, 1:]
    if not torch.equal(case.policy.act(case.observations, other, False).actions, plain.actions):
        _fail(rule, "the noise of the steps changed a chunk with explore=False", "evaluations would not be repeatable")
    if not case.policy.has_log_prob:
        if explored.stochastic.any():
            _fail(
                "without log-probabilities no step is stochastic",
                "one is with explore=True",
                "reinforcement would ask for the probability of what has none",
            )
    elif not explored.stochastic.any(-1).all():
        _fail(rule, "a chunk has no stochastic step with explore=True", "it has no log-probability to learn from")
    elif torch.equal(explored.actions, plain.actions):
        _fail(rule, "explore=True gave the actions of explore=False", "nothing would be explored")
    if not torch.equal(case.act(True).actions, explored.actions):
        _fail(
            "act is a function of observation and noise",
            "a second call gave other actions",
            "no run would be repeatable",
        )


def check_rows(case: _Case) -> None:
    """A chunk does not depend on what else is in the batch."""
    whole = case.act(True).actions
    alone = torch.cat([case.policy.act(_rows(case, i), case.noise[i : i + 1], True).actions for i in range(BATCH)])
    if not torch.allclose(whole, alone, rtol=1e-4, atol=1e-4):
        _fail(
            "a row of act depends on its own observation and noise alone",
            f"the same row alone differs by {(whole - alone).abs().max():.2g}",
            "on a policy server robots would influence each other",
        )


def check_log_prob(case: _Case) -> None:
    """log_prob of a stored path is the log-probability recorded when it was drawn, in any batch size, with gradient.

    A policy that has none says so.
    """
    chunk = case.act(True)
    if not case.policy.has_log_prob:
        try:
            case.policy.log_prob(case.observations, chunk.path, chunk.stochastic)
        except ImitationOnlyError:
            return
        _fail(
            "a policy whose has_log_prob is False raises ImitationOnlyError",
            "log_prob gave a number",
            "reinforcement would learn from it",
        )
    rule = f"log_prob of a stored path equals the recorded one to {TOLERANCE} per unit"
    whole = case.policy.log_prob(case.observations, chunk.path, chunk.stochastic)
    single = torch.cat(
        [
            case.policy.log_prob(_rows(case, i), chunk.path[i : i + 1], chunk.stochastic[i : i + 1]).detach()
            for i in range(BATCH)
        ]
    )
    for name, value in (("the same batch", whole.detach()), ("batches of one", single)):
        if value.shape != chunk.log_prob.shape:
            _fail(rule, f"its shape is {tuple(value.shape)}", "ratios would be broadcast to nonsense")
        gap = (value - chunk.log_prob).abs().max().item()
        if not gap <= TOLERANCE:
            _fail(rule, f"they differ by {gap:.2g} in {name}", "an unchanged policy would be corrected and clipped")
    if not whole.requires_grad:
        _fail("log_prob carries a gradient", "it has none", "the policy would never change")
    trained = [p for p in case.policy.parameters() if p.requires_grad]
    gradients = [g for g in torch.autograd.grad(whole.sum(), trained, allow_unused=True) if g is not None]
    if not any(g.any() for g in gradients) or not all(g.isfinite().all() for g in gradients):
        _fail("log_prob carries a gradient", "it is zero or not finite", "the policy would not change, or break")


def check_plans(case: _Case) -> None:
    """A policy that can be guided keeps to a plan, row by row; without one it acts as ever."""
    policy = case.policy
    if type(policy).act_guided is Policy.act_guided:
        return
    plain = case.act(False).actions
    shift = float(np.mean(case.statistics["action"].std))
    left = torch.full((BATCH,), policy.horizon)
    left[0] = 0

    def guided(rows: slice) -> tuple[Chunk, Chunk]:
        obs = {key: value[rows] for key, value in case.observations.items()}
        plan = Plan((plain + 0.5 * shift)[rows], left[rows], left[rows])
        return policy.act_guided(obs, case.noise[rows], plan, 5.0)

    chunk, free = guided(slice(None))
    rule = "act_guided draws each row to its own plan, and a row without one is that of act"
    if chunk.actions.requires_grad or any(one.grad is not None for one in policy.parameters()):
        _fail(rule, "it left gradients behind", "every chunk would keep its graph in memory, or training would take it")
    if chunk.stochastic.any():
        _fail(rule, "a step is stochastic", "its recorded probability would be that of another chunk")
    if not torch.allclose(chunk.actions[0], plain[0], rtol=1e-4, atol=1e-4):
        _fail(rule, "a row without a plan is another than that of act", "an arm's first chunk would be another")
    if not torch.allclose(free.actions, plain, rtol=1e-4, atol=1e-4):
        _fail(rule, "its free chunks are others than those of act", "an arm would be led elsewhere")
    alone = torch.cat([guided(slice(i, i + 1))[0].actions for i in range(BATCH)])
    if not torch.allclose(chunk.actions, alone, rtol=1e-4, atol=1e-4):
        _fail(rule, "a row alone is another", "on a policy server robots would influence each other")
    if not (chunk.actions[1:] - plain[1:]).any():
        _fail(rule, "a plan changed nothing", "an arm would jump from chunk to chunk")


def check_loss(case: _Case) -> None:
    """The supervised loss is a finite scalar with gradient; a chunk without valid steps has no part in it."""
    policy = case.policy
    actions = torch.from_numpy(case.rng.standard_normal((BATCH, policy.horizon, policy.action_dim), np.float32))
    valid = torch.ones(BATCH, policy.horizon, dtype=torch.bool)
    valid[0] = False

    def loss(actions: Tensor) -> Tensor:
        return policy.loss(case.observations, actions, valid, torch.Generator().manual_seed(0))

    value = loss(actions)
    if value.ndim != 0 or not value.isfinite() or not value.requires_grad:
        _fail("loss is a finite scalar with gradient", f"it is {value}", "imitation would not learn")
    other = actions.clone()
    other[0] += 1
    if not torch.equal(loss(other), value):
        _fail("steps that are not valid are left out of the loss", "they changed it", "padding would be imitated")


def check_state(case: _Case) -> None:
    """Statistics are in the state dict, not among the parameters, and loading it restores all."""
    policy = case.policy
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    chunk = case.act(True)
    fresh = copy.deepcopy(policy)
    neutral = {k: Statistics(np.zeros_like(s.mean), np.ones_like(s.std)) for k, s in case.statistics.items()}
    fresh.set_statistics(neutral)
    for one, two in zip(policy.parameters(), fresh.parameters(), strict=True):
        if not torch.equal(one, two):
            _fail("statistics are no parameters", "set_statistics changed a parameter", "training would move them")
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(before)
    if not torch.equal(fresh.act(case.observations, case.noise, True).actions, chunk.actions):
        _fail(
            "state_dict holds everything that decides the actions, statistics included",
            "a policy that loaded it acts differently",
            "an edge with the learner's weights would run another policy",
        )


def check_contract(case: _Case) -> None:
    """The contract is plain data and does not depend on weights or statistics."""
    contract = case.policy.contract()
    rule = "contract() is a dict of plain values that does not depend on the weights"
    try:
        json.dumps(contract)
    except TypeError as error:
        _fail(rule, f"it can't be written as JSON: {error}", "the handshake could not send it")
    if not contract:
        _fail(rule, "it is empty", "an edge with another policy would be let in")
    changed = copy.deepcopy(case.policy)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(1)
    if changed.contract() != contract:
        _fail(rule, "other weights changed it", "an edge would be refused after the first update")


CHECKS: tuple[Callable[[_Case], None], ...] = (
    check_noise,
    check_chunk,
    check_acting,
    check_exploration,
    check_rows,
    check_log_prob,
    check_loss,
    check_state,
    check_plans,
    check_contract,
)


def _random(key: str, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    if key.startswith(IMAGES):
        return torch.from_numpy(rng.integers(0, 256, (BATCH, *shape), np.uint8))
    if key == EMBODIMENT:
        return torch.nn.functional.one_hot(torch.arange(BATCH) % shape[0], shape[0]).float()
    return torch.from_numpy(rng.standard_normal((BATCH, *shape), np.float32))


def _rows(case: _Case, index: int) -> dict[str, Tensor]:
    return {key: value[index : index + 1] for key, value in case.observations.items()}


def _fail(rule: str, fault: str, consequence: str) -> NoReturn:
    raise PolicyCheckError(rule, fault, consequence)
