"""Runs of the command line, as a user makes them, and what came of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from robotlearn.metrics import read_metrics
from robotlearn.run_folder import RunFolder

EPISODES, EVAL_SEED = 200, 1000
"""Of `success`; no training has that seed."""
_ROBOTLEARN = (sys.executable, "-m", "robotlearn")


def train(config: str, run: Path, *arguments: str) -> list[dict[str, Any]]:
    """`robotlearn train`, its page drawn on a terminal only; its metrics. Raises CalledProcessError when it fails."""
    command = [*_ROBOTLEARN, "train", config, "--run", str(run), *arguments]
    subprocess.run(command, check=True, stdout=None if sys.stdout.isatty() else subprocess.DEVNULL)
    return read_metrics(RunFolder(run).metrics)


def success(run: Path) -> float:
    """`robotlearn eval`: the share of EPISODES without exploration. Raises CalledProcessError when it fails."""
    command = [*_ROBOTLEARN, "eval", str(run), "--json", f"--episodes={EPISODES}", f"--seed={EVAL_SEED}"]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(measured["success"])
