"""Probes in processes of their own: one that dies, hangs or talks is told, and harms no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robotlearn.doctor.children import Probe, run_probes

MODULES = {
    "fine": "x = 1",
    "aborts": "import os, sys\nprint('about to fall', file=sys.stderr)\nos.abort()",
    "leaves": "import os\nos._exit(3)",
    "exits": "raise SystemExit('no')",
    "talks": "import sys\nprint('found nothing', end='')\nsys.stdout.buffer.write(b'\\xff\\xfe')",
    "hangs": "import os, pathlib, threading\npathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))\n"
    "threading.Event().wait()",
}


@pytest.fixture
def path(tmp_path: Path) -> dict[str, str]:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(tmp_path)}


def test_each_thing_that_is_tried_says_how_it_went(path: dict[str, str]) -> None:
    found = run_probes(
        {
            "first": Probe(["import", "fine", "exits", "talks", "aborts", "never"], path),
            "second": Probe(["import", "leaves"], path),
            "third": Probe(["import", "missing"], path),
            "fourth": Probe(["no-such-probe"], path),
        }
    )
    assert found["fine"]["file"].endswith("fine.py")
    assert found["exits"] == {"error": "SystemExit: no"}
    assert found["talks"]["file"].endswith("talks.py")
    assert found["aborts"] == {"error": "crashed (SIGABRT): about to fall"}
    assert "never" not in found and "first" not in found
    assert found["leaves"] == {"error": "ended with status 3"}
    assert found["missing"] == {"error": "ModuleNotFoundError: No module named 'missing'"}
    assert found["fourth"]["error"].startswith("ended with status 1: KeyError")


@pytest.mark.slow
def test_one_that_hangs_is_killed(path: dict[str, str], tmp_path: Path) -> None:
    waited: set[str] = set()
    probes = {"stuck": Probe(["import", "hangs"], path), "well": Probe(["import", "fine"], path)}
    found = run_probes(probes, lambda names: waited.update(names), patience_s=5.0)
    assert found["hangs"] == {"error": "took longer than 5 s"} and "stuck" in waited
    assert "file" in found["fine"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
