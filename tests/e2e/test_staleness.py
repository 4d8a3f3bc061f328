"""One number from synchronous to fully asynchronous; what edge and learner compute of the same weights is the same."""

from __future__ import annotations

import math

import pytest

from tests.e2e.harness import Site, accounts, batch, check_metrics, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("max_staleness", [0, 3, math.inf], ids=["synchronous", "near", "asynchronous"])
def test_a_run_ends_and_its_ratios_are_one_where_the_weights_stay(site: Site, max_staleness: float) -> None:
    # With a learning rate of 0 every version has the weights of the first: behaviour, proximal and current policy are
    # one, however stale the data (the invariants of AReaL's objective).
    config = tiny(
        batch("left"),
        learner={"max_staleness": max_staleness, "updates": 16},
        algorithm={"actor_lr": 0.0, "epochs": 2},
    )
    train = site.start("train", "train", site.config(config), "--run", site.run)
    assert train.ended() == 0, train.tail()
    site.gone()
    rows = site.rows()
    assert rows[-1]["updates"] == 16
    check_metrics(site, max_staleness)
    accounts(site, "left")
    if max_staleness == 0:
        assert not any(row["episodes_skipped_stale"] for row in rows), "what can't be used must not be begun"
    else:
        assert any(row["staleness_max"] > 0 for row in rows), "nothing was stale: nothing was shown"

    assert all(row["actor_trained"] == 1 for row in rows)
    assert all(row["units_used_fraction"] > 0 for row in rows)
    assert all(row["behaviour_gap"] <= 1e-4 and row["behaviour_kl"] < 1e-8 for row in rows)
    assert all(abs(row["w_mean"] - 1) <= 1e-4 and row["w_masked_fraction"] == 0 for row in rows)
    assert all(abs(row["ratio_max"] - 1) <= 1e-4 and row["clip_fraction"] == 0 for row in rows)
    assert all(row["kl"] < 1e-8 and row["kl_max"] < 1e-8 for row in rows)
