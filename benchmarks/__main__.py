"""`python -m benchmarks [NAME ...]`: those named, or all but those that take minutes to half an hour."""

import argparse
import importlib
import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.report import RESULTS
from robotlearn import gl

NAMES = ("sim", "render", "safety", "wire", "curve", "payloads", "frames", "weights", "deltas", "serving")
LONG = (
    *("learning", "from_scratch", "ticks", "stops", "transitions", "outage", "restart", "push", "checkpoints"),
    *("replay", "paced", "late_chunks", "vla", "tiny_vlas", "vla_serving"),
    *("sac_steps", "off_policy"),  # of the extra `bench`, as are `learning` and `from_scratch`
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = f"{', '.join(NAMES)}; only when named: {', '.join(LONG)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=known)
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - {*NAMES, *LONG}:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {known}")
    gl.choose()
    RESULTS.unlink(missing_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # What `learning` starts draws bars of its own.
    hidden = not sys.stdout.isatty() or not set(names).isdisjoint(LONG)
    # Once a second: it must take nothing from what is measured.
    with Progress(*columns, refresh_per_second=1, transient=True, disable=hidden) as progress:
        bar = progress.add_task("", total=len(names))
        for name in names:
            progress.update(bar, description=name)
            importlib.import_module(f"benchmarks.{name}").run()
            progress.advance(bar)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
