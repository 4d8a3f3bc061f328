"""`python -m benchmarks.chaos`: learner and four edges under everything that can befall them; nothing may be lost.

Every edge reaches the learner over a link of its own with faults; processes are killed with kill -9, the learner is
stopped, disks are full (as root only: they are mounted), segments are sent again by somebody else. Then all is healed,
and everything is compared: what was seen in the edges' own files with what the learner stored, byte by byte. Ends with
an AssertionError that says what does not hold; else with a summary, and in the folder the run's own report, the
summary, and `chaos.png`: versions and stored segments over time, and the faults below them.
"""

import argparse
import os
import secrets
from pathlib import Path

from robotlearn import gl
from tests.e2e.chaos import KINDS, Chaos, Result
from tests.e2e.harness import Site


def draw(result: Result, path: Path) -> None:
    """Versions and stored segments over time, and under them when each kind of fault was there."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(12, 8), sharex=True, height_ratios=(2, 3))
    rows = [row for row in result.rows if row["time"] >= result.began]
    seconds = [row["time"] - result.began for row in rows]
    above.plot(seconds, [row["version"] for row in rows], ".", markersize=2, color="tab:blue")
    above.set_ylabel("version of the weights", color="tab:blue")
    stored = above.twinx()
    stored.plot(seconds, [row["segments_stored"] for row in rows], ".", markersize=2, color="tab:orange")
    stored.set_ylabel("segments stored", color="tab:orange")
    above.set_title(f"{len(result.faults)} faults, seed {result.seed}: nothing lost, nothing stored twice")
    kinds = list(reversed(KINDS))
    for fault in result.faults:
        colour = f"C{sorted({one.whom for one in result.faults}).index(fault.whom)}"
        width = max(fault.seconds, result.seconds / 400)
        below.barh(kinds.index(fault.kind), width, left=fault.at, color=colour, alpha=0.6)
    below.set(yticks=range(len(kinds)), yticklabels=kinds, xlabel="seconds", xlim=(0, max([result.seconds, *seconds])))
    for axes in (above, below):
        axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="of faults")
    parser.add_argument("--seed", type=int, default=None, help="of the faults, to have the same ones again")
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"), help="must not exist yet")
    chosen = parser.parse_args()
    gl.choose()
    chosen.folder.mkdir(parents=True)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # five programs share the machine
    site = Site(chosen.folder.resolve())
    os.environ["ROBOTLEARN_RUNTIME_DIR"] = str(site.temporary)  # not the e-stops and arms of who runs this
    chaos = Chaos(site, seed=secrets.randbits(20) if chosen.seed is None else chosen.seed)
    try:
        result = chaos.run(60 * chosen.minutes)
    finally:
        chaos.close(keep=True)
    draw(result, chosen.folder / "chaos.png")
    (chosen.folder / "summary.txt").write_text(result.summary() + "\n", encoding="utf-8")
    print(result.summary())


if __name__ == "__main__":
    main()
