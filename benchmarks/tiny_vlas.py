"""Tiny VLAs from nothing: imitation, then Flow-SDE PPO on `touch`, as configs/touch-vla.yaml has it; success before and
after, minutes of the whole run, and a picture, benchmarks/tiny_vlas.png. Seven minutes a run.
    python -m benchmarks tiny_vlas
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.report import report
from benchmarks.runs import success, train
from policies.vla.tiny import write_tiny
from robotlearn.report.run import Run

DEMONSTRATIONS = {"smolvla": 600, "pi0": 2000}
KINDS = tuple(DEMONSTRATIONS)
SEEDS = (0, 1)
PICTURE = Path(__file__).parent / "tiny_vlas.png"


def measure(kind: str, seed: int, folder: Path) -> Run:
    """One run, its minutes and its success reported."""
    checkpoint, run = folder / kind, folder / f"{kind}-{seed}"
    if not checkpoint.exists():
        write_tiny(kind, checkpoint)
    begun = time.perf_counter()
    chosen = (f"policy.kind={kind}", f"policy.pretrained={checkpoint}", f"seed={seed}")
    train("touch-vla", run, *chosen, f"demonstrations.episodes={DEMONSTRATIONS[kind]}")
    minutes = (time.perf_counter() - begun) / 60
    made = Run.read(run)
    before = made.evaluations[0]["eval_success"]
    report(f"tiny_vlas.{kind}.seed_{seed}", 100 * success(run), "% success", "by imitation alone", 100 * before)
    report(f"tiny_vlas.{kind}.seed_{seed}.minutes", minutes, "min", "a quarter of an hour", 15.0)
    return made


def draw(runs: dict[tuple[str, int], Run]) -> None:
    """Success against seconds of reinforcement, a line per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for (kind, seed), run in runs.items():
        points = [(row["seconds"] / 60, 100 * row["eval_success"]) for row in run.evaluations]
        color = f"C{KINDS.index(kind)}"
        axes.plot(*zip(*points, strict=True), color=color, linestyle=("-", "--")[seed % 2], marker=".",
                  label=f"{kind}, seed {seed}")  # fmt: skip
    axes.set(xlabel="minutes of reinforcement", ylabel="success without exploration, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(PICTURE, dpi=130)


def run(kinds: tuple[str, ...] = KINDS, seeds: tuple[int, ...] = SEEDS) -> None:
    with tempfile.TemporaryDirectory(prefix="robotlearn-bench-") as folder:
        draw({(kind, seed): measure(kind, seed, Path(folder)) for seed in seeds for kind in kinds})
    print(f"drawn in {PICTURE}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    chosen = parser.parse_args()
    run(tuple(chosen.kinds), tuple(chosen.seeds))
