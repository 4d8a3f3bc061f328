"""Keys for one run on a cluster, made by its driver, so that nothing needs to be set up on the nodes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from robotlearn.wire.keys import Keys


def make_keys(edges: Sequence[str]) -> tuple[str, dict[str, dict[str, str]]]:
    """The learner's public key and, for it ("") and for each edge, the files of its folder of keys."""
    with tempfile.TemporaryDirectory(prefix="robotlearn-") as folder:
        learner, others = Keys(Path(folder) / "learner"), Keys(Path(folder) / "edges")
        public = learner.new("learner").public
        files: dict[str, dict[str, str]] = {}
        for name in edges:
            learner.allow(name, others.new(name).public, ["edge"])
            files[name] = _texts(others.path, f"{name}.secret")
        files[""] = _texts(learner.path, "learner.secret", learner.allowed_file.name)
    return str(public), files


def lay_down(files: Mapping[str, str], folder: Path) -> None:
    """Put them into an empty folder, readable by nobody else."""
    for name, text in files.items():
        file = folder / name
        file.touch(mode=0o600)
        file.write_text(text)


def _texts(folder: Path, *names: str) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in names}
