"""The latching e-stop: a file that outlives everyone, looked for before each set-point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hal import DriverError
from hal import estop as module
from hal.estop import ALL, EStop
from hal.runtime import runtime_folder


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path))
    yield tmp_path


def test_it_stays_until_it_is_cleared_and_keeps_who_was_first() -> None:
    estop = EStop("bench")
    assert not estop.pressed
    assert estop.reason() == ""
    assert not estop.clear()
    estop.press("Ada", "smoke")
    estop.press("Bob")
    assert estop.pressed
    assert EStop("bench").reason() == "e-stop by Ada: smoke"
    assert not EStop("other").pressed
    assert estop.clear()
    assert not estop.pressed
    estop.press("Bob")
    assert estop.reason() == "e-stop by Bob"


def test_another_process_presses_it_and_is_gone() -> None:
    code = "import os; from hal.estop import EStop; EStop('bench').press('a child'); os._exit(1)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert EStop("bench").reason() == "e-stop by a child"


def test_the_one_for_all_robots() -> None:
    bench, every = EStop("bench"), EStop(ALL)
    every.press("Ada")
    assert bench.pressed
    assert bench.reason() == "e-stop by Ada"
    assert not bench.clear()  # its own isn't pressed
    assert bench.pressed
    bench.press("Bob")
    assert every.clear()
    assert bench.pressed
    assert bench.reason() == "e-stop by Bob"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"by": 1}', "\0\1", json.dumps({"why": "x"})])
def test_latched_is_latched_whatever_the_file_holds(runtime: Path, content: str) -> None:
    estop = EStop("bench")
    (runtime / "estop" / "bench").write_text(content)
    assert estop.pressed
    assert estop.reason().startswith("e-stop")
    estop.press("Ada")
    assert estop.clear()
    assert not estop.pressed


def test_a_link_to_nothing_is_pressed(runtime: Path) -> None:
    estop = EStop("bench")
    (runtime / "estop" / "bench").symlink_to(runtime / "gone")
    assert estop.pressed
    assert estop.clear()


def test_pressed_by_many_at_once_it_is_pressed() -> None:
    estop, faults, start = EStop("bench"), [], threading.Barrier(16)

    def press(n: int) -> None:
        start.wait()
        try:
            estop.press(str(n))
        except OSError as error:
            faults.append(error)

    for _ in range(20):
        threads = [threading.Thread(target=press, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert estop.clear()
    assert faults == []


def test_pressing_where_nothing_can_be_written_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        EStop("bench").press("Ada")


@pytest.mark.parametrize("name", ["../panda", "", ".hidden", "a/b", "a b", "x" * 129])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(DriverError, match="a robot can't be called"):
        EStop(name)


def test_one_that_can_not_be_written_down_holds_here_until_it_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    estop = EStop("bench")

    def full(file: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        estop.press("Ada", "smoke")
    assert estop.pressed and estop.reason() == "e-stop by Ada: smoke"
    assert not EStop("bench").pressed
    assert estop.clear()
    assert not estop.pressed


def test_whose_folder_is_taken_away_is_pressed(runtime: Path) -> None:
    estop = EStop("bench")
    (runtime / "estop").rename(runtime / "away")
    assert estop.pressed and "was taken away" in estop.reason()
    EStop("bench")  # somebody makes a folder of that name: it isn't the one that others press in
    assert estop.pressed


def test_its_place_is_the_same_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ROBOTLEARN_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    assert runtime_folder("estop") == Path(f"/var/tmp/robotlearn-{os.getuid()}/estop")


@pytest.mark.parametrize("how", ["link", "writable by others"])
def test_a_place_that_others_may_change_is_refused(how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if how == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        place.chmod(0o777)
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(place))
    with pytest.raises(DriverError, match="must be a folder of this user's"):
        EStop("bench")
