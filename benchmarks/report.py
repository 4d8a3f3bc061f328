"""One line per figure: printed, and appended to `benchmarks/results.jsonl` as a JSON object."""

from __future__ import annotations

import json
import math
from pathlib import Path

RESULTS = Path(__file__).parent / "results.jsonl"


def report(
    name: str, value: float, unit: str, reference: str | None = None, reference_value: float | None = None
) -> None:
    """Print and keep one figure; `reference` says in words what `reference_value` (in the same unit) is.

    `ratio` is value / reference_value: whether more or less of it is better follows from the unit.
    """
    ratio = value / reference_value if reference_value else None
    row = {
        "name": name,
        "value": value if math.isfinite(value) else None,
        "unit": unit,
        "reference": reference,
        "reference_value": reference_value,
        "ratio": ratio,
    }
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    line = f"{name:28} {value:14,.2f} {unit:16}"
    if reference_value is not None:
        line += f" {reference}: {reference_value:,.2f}, ratio {ratio:.2f}"
    print(line, flush=True)
