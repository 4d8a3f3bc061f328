"""`robotlearn latency`: what it prints of configs and runs, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from policies import FlowMLP
from robotlearn import checkpoint
from robotlearn.checkpoint import Checkpoint
from robotlearn.cli import app
from robotlearn.config import dump, load_config
from robotlearn.contract import contract
from robotlearn.errors import ConfigError
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder

SMALL = ("policy.hidden=[8]", "edges.1.arms=4")


def latency(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["latency", *map(str, arguments)])


def run_of(folder: Path, *more: str) -> Path:
    config = load_config("smoke", [*SMALL, *more])
    run = RunFolder.create(folder, dump(config), "0" * 16)
    with run:
        state = build_policy(config, Inputs(config)).state_dict()
        checkpoint.save(Checkpoint(7, state, contract=dict(contract(config))), run.checkpoints)
    return folder


@pytest.mark.parametrize("what", ["config", "run"])
def test_every_size_has_its_row(what: str, tmp_path: Path) -> None:
    given = ("smoke", *SMALL) if what == "config" else (run_of(tmp_path / "run"),)
    result = latency(*given, "--batch", 4, "--batch", 1, "--batch", 4, "--chunks", 5, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["policy"], found["horizon"]) == ("flow_mlp", 4)
    assert [row["batch"] for row in found["batches"]] == [1, 4]
    for row in found["batches"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["chunks_per_s"] == pytest.approx(1000 * row["batch"] / row["p50_ms"])
        assert row["control_hz_at_most"] == pytest.approx(1000 * 4 / row["p99_ms"])
        assert row["ahead"] - 1 < row["p99_ms"] / 1000 * 10 <= row["ahead"]  # a panda takes ten set-points a second


def test_chunks_that_go_on_from_plans_are_timed_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    guided = []
    act_guided = FlowMLP.act_guided
    monkeypatch.setattr(FlowMLP, "act_guided", lambda self, *given: guided.append(1) or act_guided(self, *given))
    more = ("edges.0.execution={way: rtc, ahead: 2}", "edges.0.explore=false")
    assert latency("smoke", *SMALL, *more, "--batch", 2, "--chunks", 3, "--json").exit_code == 0
    assert len(guided) >= 3


def test_the_table_has_a_line_for_each(tmp_path: Path) -> None:
    lines = latency("smoke", *SMALL, "--batch", 2, "--chunks", 3).stdout.splitlines()
    assert lines[0].split("  ")[0].strip() == "robots" and "p99 ms" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["2"]


def test_what_can_not_be_measured_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    for arguments, said in (
        ((run, "policy.horizon=8"), "is a run, whose config stays as it is"),
        ((run_of(tmp_path / "gpu", "edges.0.device=cuda:7"),), "the edge's device is cuda:7"),
        (("nowhere",), "no such file and no shipped config"),
        (("smoke", "edges.0.compile=always"), "set compile to never"),
    ):
        result = latency(*arguments)
        assert result.exit_code and said in str(result.exception)
    assert isinstance(latency("nowhere").exception, ConfigError)
    assert latency("smoke", "--batch", 0).exit_code == 2
