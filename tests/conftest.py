"""What holds for every test: one thread per library, a way to draw without a screen, no network, no deadline."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest
from hypothesis import settings

from robotlearn import gl

# Before anything imports NumPy, torch or MuJoCo, and for every child process: test workers share the cores, and more
# threads than cores make everything slower; results that depend on the number of threads must not.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Not the e-stops and arms of whoever runs the tests. A short path: it holds Unix sockets.
if "PYTEST_XDIST_WORKER" not in os.environ or "ROBOTLEARN_RUNTIME_DIR" not in os.environ:
    os.environ["ROBOTLEARN_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="robotlearn-tests-")
    atexit.register(shutil.rmtree, os.environ["ROBOTLEARN_RUNTIME_DIR"], ignore_errors=True)

CAN_DRAW = gl.choose()

settings.register_profile("robotlearn", deadline=None)  # a busy machine is no failure
settings.load_profile("robotlearn")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CAN_DRAW:
        return
    skip = pytest.mark.skip(reason="nothing to draw with: neither EGL nor OSMesa is installed")
    for item in items:
        if item.get_closest_marker("renders"):
            item.add_marker(skip)
