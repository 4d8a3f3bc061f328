"""Who keeps a policy server that several stations share, and that there is only one at a time."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from robotlearn.edge.server_place import ServerPlace, only_server
from tests.waiting import until

KEEPER = """
import sys
from robotlearn.edge.server_place import ServerPlace
place = ServerPlace("both")
print(place.keeps(), place.server, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)


def test_one_of_its_own_is_kept_and_leaves_nothing() -> None:
    one, two = ServerPlace(), ServerPlace()
    assert one.keeps() and two.keeps() and one.server != two.server
    one.close()
    assert not one.folder.exists() and two.folder.exists()
    two.close()


def test_whoever_comes_first_keeps_it_until_they_are_killed() -> None:
    first = subprocess.Popen([sys.executable, "-c", KEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    second, other = ServerPlace("both"), ServerPlace("somebody else's")
    try:
        assert first.stdout.readline().split() == ["True", second.server]
        assert not second.keeps() and other.keeps() and other.server != second.server
        first.kill()
        first.wait()
        until(second.keeps, "the second to take over")
        assert not ServerPlace("both").keeps()
    finally:
        first.kill()
        first.communicate()
        for place in (second, other):
            place.close()
    assert ServerPlace("both").keeps()


def test_the_next_server_waits_for_the_one_before_to_end() -> None:
    place = ServerPlace("both")
    before = only_server(place.server)
    after: list[int] = []
    waiting = threading.Thread(target=lambda: after.append(only_server(place.server)))
    waiting.start()
    waiting.join(0.2)
    assert not after
    os.close(before)
    waiting.join(20)
    assert len(after) == 1
    os.close(after[0])
    place.close()
