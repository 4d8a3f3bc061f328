"""`make table`: few-shot imitation, then reinforcement with Flow-SDE and Flow-Noise, task by task, seed by seed.

The shape of piRL's table (arXiv:2510.25889) on our arms. Every run is a `robotlearn train` in a folder of its own, then
200 episodes without exploration on seeds that training never saw. It may be broken off and called again: finished runs
are read, a run that was cut short is resumed. The table is `table.md` in the folder, written anew after each run.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.runs import success, train
from robotlearn.errors import RunFolderError
from robotlearn.report.run import Run
from robotlearn.run_folder import RunFolder

TASKS = {
    "lift": (),
    "push": (
        "demonstrations.episodes=64",
        "sft.steps=1000",
        "start.success_band=null",
        "start.every=1000",
        "policy.deterministic_last=false",  # nothing is grasped, so noise at the joints spoils little and finds more
        "policy.noise_level=0.3",  # of Flow-SDE
        "policy.noise_range=[0.1,0.3]",  # of Flow-Noise
    ),
    "pick_place": ("demonstrations.episodes=64", "start.every=100"),
    "peg": (
        "demonstrations.episodes=256",
        "sft.steps=2000",
        "start.success_band=null",
        "start.every=2000",
        "episode_steps=80",  # the expert needs 34 of the task's 120
    ),
}
"""What each task needs besides configs/laptop.yaml and the method: above all, so many demonstrations for its start."""
METHODS = {"Flow-SDE": (), "Flow-Noise": ("policy.exploration=noise", "policy.noise_range=[0.3,0.7]")}
"""The range of the noise is around laptop.yaml's level for Flow-SDE, 0.5; a task's own settings come after these."""
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Result:
    """One run: success before and after reinforcement, its environment steps, its seconds on this machine."""

    task: str
    method: str
    seed: int
    before: float
    after: float
    env_steps: int
    seconds: float


def result(folder: Path, task: str, method: str, seed: int, overrides: Sequence[str]) -> Result:
    """Read the run in `folder`, or make it first; raises CalledProcessError when it fails, SystemExit when stopped."""
    kept = folder / "result.json"
    if not kept.exists():
        if not _complete(folder):
            change = ["--resume"] if RunFolder(folder).config.exists() else []
            settings = [f"task={task}", f"seed={seed}", *METHODS[method], *TASKS[task], *overrides]
            train("laptop", folder, *settings, *change)
        run = Run.read(folder)
        if run.state != "complete":
            raise SystemExit(f"the run {folder} was stopped; the same command goes on with it")
        before, last = run.evaluations[0]["eval_success"], run.updates[-1]
        made = Result(task, method, seed, before, success(folder), last["env_steps"], last["seconds"])
        kept.write_text(json.dumps(asdict(made)))
    return Result(**json.loads(kept.read_text()))


def _complete(folder: Path) -> bool:
    """Whether it was trained to its end, and only its measurement was broken off."""
    try:
        return Run.read(folder).state == "complete"
    except RunFolderError:
        return False


def table(results: Iterable[Result], wanted: Sequence[tuple[str, str]], seeds: Sequence[int]) -> str:
    """Markdown: a row per task and method, medians over the seeds, each seed's success behind them."""
    lines = [
        "| task | method | success before | after | each seed | environment steps | reinforcement |",
        "|---|---|---|---|---|---|---|",
    ]
    found = list(results)
    for task, method in wanted:
        rows = [row for row in found if (row.task, row.method) == (task, method)]
        if not rows:
            lines.append(f"| {task} | {method} | not run | | | | |")
            continue
        middle = {
            name: statistics.median(getattr(row, name) for row in rows)
            for name in asdict(rows[0])
            if name not in ("task", "method")
        }
        each = ", ".join(f"{row.before:.0%} → {row.after:.1%}" for row in rows)
        missing = f" (of {len(seeds)})" if len(rows) < len(seeds) else ""
        lines.append(
            f"| {task} | {method} | {middle['before']:.0%} | {middle['after']:.1%} | {each}{missing} "
            f"| {middle['env_steps'] / 1e3:,.0f} k | {middle['seconds'] / 60:.1f} min |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="SEED")
    parser.add_argument("--folder", type=Path, default=Path("runs/table"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of configs/laptop.yaml, for every run")
    chosen = parser.parse_args()
    wanted = [(task, method) for task in chosen.tasks for method in chosen.methods]
    results: list[Result] = []
    runs = [(task, method, seed) for seed in chosen.seeds for task, method in wanted]
    for index, (task, method, seed) in enumerate(runs):
        folder = chosen.folder / f"{task}-{method.lower()}-{seed}"
        print(f"run {index + 1} of {len(runs)}: {task}, {method}, seed {seed}, in {folder}", flush=True)
        results.append(result(folder, task, method, seed, chosen.overrides))
        text = table(results, wanted, chosen.seeds)
        (chosen.folder / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
