"""The run folder: one learner at a time, and no version number twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from robotlearn.config import dump, load_config
from robotlearn.durable import write_atomic
from robotlearn.errors import RunFolderError
from robotlearn.run_folder import RunFolder
from tests.waiting import until


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "deep" / "run", dump(load_config("smoke")), "the id")


def test_the_config_as_run_is_the_config(folder: RunFolder) -> None:
    assert load_config(folder.config) == load_config("smoke")
    assert RunFolder.open(folder.path).run_id == "the id"


def test_a_folder_that_holds_a_run_is_not_overwritten(folder: RunFolder) -> None:
    before = folder.config.read_bytes()
    with pytest.raises(RunFolderError, match="already holds a run; continue it with --resume or choose another"):
        RunFolder.create(folder.path, "seed: 1\n", "other")
    assert folder.config.read_bytes() == before and folder.run_id == "the id"


def test_what_never_began_can_be_discarded_and_its_place_used_anew(folder: RunFolder) -> None:
    folder.discard()
    assert not folder.path.exists()
    assert RunFolder.create(folder.path, "seed: 1\n", "other").run_id == "other"


def test_what_was_there_before_is_not_discarded(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    folder = RunFolder.create(tmp_path, "seed: 1\n", "id")
    folder.discard()
    assert (tmp_path / "notes").exists() and not folder.config.exists()


@pytest.mark.parametrize("what", ["nothing", "an empty folder"])
def test_what_is_no_run_is_not_opened(tmp_path: Path, what: str) -> None:
    path = tmp_path / "run"
    if what != "nothing":
        path.mkdir()
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder.open(path)


def test_a_file_in_the_way_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="can't make the run folder"):
        RunFolder.create(tmp_path / "run", "", "id")


HOLD = """
import sys
from pathlib import Path
from robotlearn.run_folder import RunFolder
with RunFolder.open(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_learner_is_refused_until_the_first_is_gone_even_by_kill(folder: RunFolder) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    folder.address.write_text("its address")
    with pytest.raises(RunFolderError, match=rf"in use by another learner \(process {holder.pid}\)"), folder:
        pass
    assert folder.address.exists()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    with folder:
        assert not folder.address.exists()


def test_a_reserved_version_is_known_after_a_crash(folder: RunFolder) -> None:
    assert folder.highest_version == -1
    folder.reserve_version(0)
    folder.reserve_version(1)
    assert RunFolder(folder.path).highest_version == 1
    assert RunFolder(folder.path).run_id == "the id"


def test_damage_is_told_with_the_file(folder: RunFolder) -> None:
    (folder.path / "run.json").write_text('{"id": 1}')
    (folder.path / "version").write_text("one")
    with pytest.raises(RunFolderError, match=r"run\.json is missing or damaged"):
        _ = folder.run_id
    with pytest.raises(RunFolderError, match="version is missing or damaged"):
        _ = folder.highest_version


KILLED = """
import sys
from pathlib import Path
from robotlearn.durable import write_atomic
for i in range(10**9):
    write_atomic(Path(sys.argv[1]), b"%d\\n" % i * 5000)
"""


def test_an_interrupted_write_leaves_old_or_new_and_nothing_between(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, b"first")
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(path)])
        before = path.read_bytes()
        until(lambda before=before: path.read_bytes() != before, "the writer to write", 60)
        writer.kill()
        writer.wait()
        lines = path.read_bytes().splitlines()
        assert len(lines) == 5000 and len(set(lines)) == 1
