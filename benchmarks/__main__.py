"""`python -m benchmarks [NAME ...]`: those named, or all but `learning` and `from_scratch`, half an hour each."""

import argparse
import importlib

from benchmarks.report import RESULTS
from robotlearn import gl

NAMES = ("sim", "render", "safety", "wire", "weights", "serving")
LONG = ("learning", "from_scratch")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=(*NAMES, *LONG, []), help=f"of {', '.join((*NAMES, *LONG))}")
    names = parser.parse_args().names or NAMES
    gl.choose()
    RESULTS.unlink(missing_ok=True)
    for name in names:
        importlib.import_module(f"benchmarks.{name}").run()
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
