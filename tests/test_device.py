"""The device that a config names, or one line why not."""

import os
from pathlib import Path

import pytest
import torch
import yaml

from robotlearn.config.load import load_config
from robotlearn.device import device
from robotlearn.errors import ConfigError
from robotlearn.metrics import read_metrics
from tests.e2e.harness import Program, batch, tiny

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device("auto", "x") == device("cpu", "x") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"^learner.device is cuda, but of GPUs torch finds none here; `robotlearn d"):
        device("cuda", "learner.device")


def test_with_gpus_one_beyond_them_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device("auto", "x") == torch.device("cuda") and device("cuda:1", "x") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="finds 2 of them"):
        device("cuda:2", "x")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "mps"])
def test_other_names_are_refused_with_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tiny(batch("one", device=name))))
    with pytest.raises(ConfigError, match=r"edges\.0\.device.*expected auto, cpu, cuda, or cuda with a number"):
        load_config(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
@pytest.mark.parametrize("where", ["learner", pytest.param("edge", marks=pytest.mark.slow)])
def test_a_run_that_needs_a_gpu_ends_at_once_with_status_2(tmp_path: Path, where: str) -> None:
    path = tmp_path / "run.yaml"
    sections = {"learner": {"device": "cuda"}} if where == "learner" else {}
    edge = batch("one", **({"device": "cuda:0"} if where == "edge" else {}))
    path.write_text(yaml.safe_dump(tiny(edge, **sections)))
    program = Program("train", ["train", path, "--run", tmp_path / "run"], tmp_path, dict(os.environ), None)
    assert program.ended() == 2, program.tail()
    assert f"{'learner.' * (where == 'learner')}device is cuda" in program.tail()
    assert "but of GPUs torch finds none here" in program.tail() and "Traceback" not in program.tail()


@cuda
@pytest.mark.slow
def test_a_run_on_a_gpu_learns_and_goes_on(tmp_path: Path) -> None:
    path, folder = tmp_path / "run.yaml", tmp_path / "run"
    sections = {"learner": {"device": "cuda", "updates": 2}}
    path.write_text(yaml.safe_dump(tiny(batch("one", device="cuda"), batch("two"), **sections)))
    for number, more in enumerate(([], ["--resume", "learner.updates=4"])):
        given = [path] if not more else []
        program = Program(f"train{number}", ["train", *given, "--run", folder, *more], tmp_path, dict(os.environ), None)
        assert program.ended() == 0, program.tail()
    rows = read_metrics(folder / "metrics.jsonl")
    gaps = [row["log_prob_gap"] for row in rows if "log_prob_gap" in row]
    assert len(gaps) == 4 and max(gaps) < 1e-3  # the second edge is on the CPU
