"""What new weights must pass: finite and within limits, a rehearsal, a trial, and that success does not fall after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from envs import BatchArmEnv
from policies.base import Policy
from robotlearn.cells import cells_of, env_options
from robotlearn.config import Config, load_config
from robotlearn.config.approval import ApprovalConfig
from robotlearn.errors import ConfigError
from robotlearn.evaluation import Evaluation
from robotlearn.inputs import Inputs
from robotlearn.learner.approval import Approval, Decision
from robotlearn.policy import build_policy
from tests.waiting import until
from tests.wire.make import make_segment


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("smoke", ["policy.hidden=[8]"])


def approval(config: Config, **settings: object) -> Approval:
    made = ApprovalConfig(**({"rehearsal_episodes": 0, "watch_episodes": 4} | settings))  # type: ignore[arg-type]
    return Approval(made, Inputs(config), cells_of(config), 0)


def measured(success: float) -> Callable[[int], Evaluation]:
    return lambda episodes: Evaluation(episodes, round(success * episodes), success, 0.0, 1.0, 0.0, 1.0)


def step(decision: Decision | None) -> str:
    return decision.step if decision is not None else ""


@pytest.fixture
def policy(config: Config) -> Policy:
    return build_policy(config, Inputs(config))


def see(approving: Approval, config: Config) -> None:
    """Observations as an edge stores them."""
    [cell] = cells_of(config)
    env = BatchArmEnv(cell.spec, cell.task, 4, threads=1, seed=0, options=env_options(config))
    try:
        observations, _ = env.reset()
        for arm in range(4):
            rows = {key: np.repeat(value[arm][None], 7, 0) for key, value in observations.items()}
            approving.remember(make_segment(observations=rows, embodiment=cell.spec.embodiment))
    finally:
        env.close()


def test_weights_that_are_not_finite_are_rejected(config: Config, policy: Policy) -> None:
    approving = approval(config, observations=0)
    assert step(approving.offer(0, policy, measured(1))) == "approved"
    name, tensor = next((name, tensor) for name, tensor in policy.state_dict().items() if tensor.is_floating_point())
    tensor.view(-1)[0] = torch.nan
    decision = approving.offer(1, policy, measured(1))
    assert step(decision) == "rejected" and decision is not None and name in decision.why and approving.approved == 0


def test_actions_beyond_the_arms_limits_are_rejected_on_what_edges_have_seen(config: Config, policy: Policy) -> None:
    approving = approval(config, max_outside=0.3)
    # The action's statistics make a random network's actions as large as the demonstrations': here wider.
    with torch.no_grad():
        for name, tensor in policy.state_dict().items():
            if "action" in name and name.endswith("std"):
                tensor.fill_(100.0)
    assert step(approving.offer(0, policy, measured(1))) == "approved", "nothing was seen so far"
    see(approving, config)
    decision = approving.offer(1, policy, measured(1))
    assert decision is not None and decision.step == "rejected" and "beyond the arm's limits" in decision.why
    assert decision.figures["observations"] == 4 and decision.figures["outside"] > 0.3
    with torch.no_grad():
        for name, tensor in policy.state_dict().items():
            if "action" in name and name.endswith("std"):
                tensor.fill_(1e-3)
            if "action" in name and name.endswith("mean"):
                tensor.fill_(0.02)
    decision = approving.offer(2, policy, measured(1))
    assert decision is not None and decision.step == "approved" and decision.figures["outside"] == 0


def test_a_rehearsal_must_succeed_often_enough(config: Config, policy: Policy) -> None:
    approving = approval(config, rehearsal_episodes=10, rehearsal_success=0.5)
    decision = approving.offer(0, policy, measured(0.4))
    assert decision is not None and decision.step == "rejected" and decision.figures["rehearsal_success"] == 0.4
    assert "success 40.0% in rehearsal" in decision.why
    assert step(approving.offer(1, policy, measured(0.5))) == "approved" and approving.approved == 1


def test_one_edge_goes_first_and_the_others_have_what_it_succeeded_with(config: Config, policy: Policy) -> None:
    approving = approval(config, trial_edge="a", trial_episodes=3, trial_success=0.6)
    assert step(approving.offer(0, policy, measured(1))) == "approved", "the first ones go to all"
    assert step(approving.offer(1, policy, measured(1))) == "trial"
    assert approving.offer(2, policy, measured(1)) is None, "one at a time"
    assert approving.heard("a", 0, True) is None, "begun before it had them"
    assert approving.heard("b", 1, True) is None, "not the one that tries"
    assert [step(approving.heard("a", 1, success)) for success in (True, False, True)] == ["", "", "approved"]
    assert approving.approved == 1
    assert step(approving.offer(3, policy, measured(1))) == "trial"
    last = [approving.heard("a", 3, success) for success in (True, False, False)][-1]
    assert last is not None and (last.step, last.version) == ("rejected", 3) and approving.approved == 1
    assert last.figures["trial_success"] == pytest.approx(1 / 3)


def test_a_trial_that_its_edge_does_not_go_on_with_fails(config: Config, policy: Policy) -> None:
    approving = approval(config, trial_edge="a", trial_episodes=3, trial_patience_s=0.05)
    approving.offer(0, policy, measured(1))
    assert approving.overdue() is None, "nothing is under trial"
    assert step(approving.offer(1, policy, measured(1))) == "trial"
    approving.heard("a", 1, True)
    found: list[Decision] = []
    until(lambda: found.extend(filter(None, [approving.overdue()])) or bool(found), "the end of its patience")
    [decision] = found
    assert (decision.step, decision.version, decision.tried) == ("rejected", 1, True) and approving.approved == 0
    assert not decision.judged, "nothing is known against these weights"
    assert decision.why.startswith("a did 1 of 3 episodes of its trial, and none for ")
    assert approving.overdue() is None and step(approving.offer(2, policy, measured(1))) == "trial"


def test_while_nobody_can_go_on_with_a_trial_its_patience_does_not_end(
    config: Config, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    approving = approval(config, trial_edge="a", trial_episodes=3, trial_patience_s=10)
    approving.offer(0, policy, measured(1))
    approving.offer(1, policy, measured(1))
    now = 1000.0
    approving.pause()
    now = 1010.0
    assert approving.overdue() is None
    now = 1011.0
    assert step(approving.overdue()) == "rejected"


def test_once_some_were_approved_none_goes_to_all_untried(config: Config, policy: Policy) -> None:
    approving = approval(config, trial_edge="a", trial_episodes=3)
    approving.first = False  # of a run that comes again, and has nothing left of what was approved
    assert approving.approved < 0 and step(approving.offer(4, policy, measured(1))) == "trial"


def test_what_edges_do_with_other_weights_while_they_are_pinned_says_nothing_of_those_in_question(
    config: Config, policy: Policy
) -> None:
    approving = approval(config, trial_edge="a", trial_episodes=2, trial_success=0.6)
    approving.offer(0, policy, measured(1))
    assert all(approving.heard("b", 0, True) is None for _ in range(4))
    approving.settle(1)
    assert step(approving.offer(2, policy, measured(1))) == "trial"
    assert [approving.heard(edge, 3, False) for edge in "aabbbb"] == [None] * 6
    assert [step(approving.heard("a", 2, True)) for _ in range(2)] == ["", "approved"]


def test_when_success_falls_after_it_is_rolled_back(config: Config, policy: Policy) -> None:
    approving = approval(config, max_drop=0.3)
    approving.offer(0, policy, measured(1))
    assert all(approving.heard("a", 0, True) is None for _ in range(6))
    approving.offer(1, policy, measured(1))
    assert approving.heard("a", 0, False) is None, "of the weights before"
    found = [step(approving.heard("a", 1, success)) for success in (True, True, True, False)]
    assert found == [""] * 4, "75 % after 100 %: within what it may fall"
    assert step(approving.heard("a", 1, False)) == "roll back"
    approving.settle(2)
    found = [step(approving.heard("a", 2, False)) for _ in range(4)]
    assert found[-1] == "roll back", "still compared with what was good"


def test_only_each_so_manieth_version_is_offered(config: Config, policy: Policy) -> None:
    approving = approval(config, every=3)
    found = [step(approving.offer(version, policy, measured(1))) for version in range(7)]
    assert found == ["approved", "", "", "approved", "", "", "approved"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["learner.approval={edges: [nobody]}"], r"edges.*'nobody' is not valid, expected of: station, batch"),
        (["learner.approval={trial_edge: batch}"], r"trial_edge.*'batch' is not valid.*station"),
        (["learner.approval={}", "edges=[{name: b, kind: batch}]"], "without a paced edge"),
        (["learner.approval={max_drop: 2}"], r"max_drop"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_one_clear_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("smoke", overrides)
