"""`--rerun`: a live view of a run in Rerun, of a sample of its arms, that never slows or ends the learner.

The learner's thread only looks whether a segment is to be shown and puts it into a bounded queue; a thread of its own
turns what is in there into what Rerun shows. What the queue has no room for is dropped and counted.
"""

import logging
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from hal.spec import RobotSpec
from robotlearn import gl
from robotlearn.errors import ConfigError, DisplayError, ExtraError
from robotlearn.wire.segment import Segment

log = logging.getLogger(__name__)

VIEWER = "viewer"
SCHEMES = ("rerun+http", "rerun+https", "rerun")
PORT = 9876
"""Where a viewer of Rerun listens by default."""
OLDEST = (0, 26)
ROBOTS = 8
"""So many robots are shown, the first ones of which something comes; a batch of arms of one model counts as one."""
EPISODE_PERIOD_S = 1.0
"""A robot's next episode is shown so long after the beginning of its last one, or later."""
EPISODE_PATIENCE_S = 30.0
"""An episode of which nothing came for so long is not waited for: its edge is gone."""
QUEUE_ITEMS, QUEUE_BYTES = 64, 64 << 20
CLOSE_PATIENCE_S = 5.0
VIEWER_PATIENCE_S = 20.0

Plan = Callable[[Segment], np.ndarray]
"""The actions (C, H, D) of a segment's chunks, in the units of the arm's actions."""


def check(where: str) -> None:
    """See, before anything starts, that a live view can go there; cheap, and imports nothing of Rerun.

    `where`: `viewer` opens one on this machine's screen, FILE.rrd is written, rerun+http://HOST:PORT/proxy is a viewer
    that runs. Raises ConfigError, ExtraError: Rerun is missing or too old; DisplayError: no screen, or nobody answers.
    """
    url = urlsplit(where)
    if where != VIEWER and not where.endswith(".rrd") and url.scheme not in SCHEMES:
        raise ConfigError(f"--rerun {where}: expected {VIEWER}, FILE.rrd, or rerun+http://HOST:{PORT}/proxy")
    install = f"pip install 'rerun-sdk>={OLDEST[0]}.{OLDEST[1]}'"
    try:
        found = version("rerun-sdk")
    except PackageNotFoundError:
        raise ExtraError(f"--rerun needs the package rerun-sdk, which is not installed: {install}") from None
    if tuple(map(int, found.split(".")[:2])) < OLDEST:
        raise ExtraError(f"--rerun needs rerun-sdk >= {OLDEST[0]}.{OLDEST[1]}, here is {found}: {install}")
    if where == VIEWER and not gl.has_display():
        raise DisplayError(
            "--rerun viewer: no display here to open it on; write a file instead with --rerun FILE.rrd, or start "
            f"`rerun` on a machine with a screen and give --rerun rerun+http://THAT_MACHINE:{PORT}/proxy"
        )
    if url.scheme in SCHEMES:
        try:
            port = url.port or PORT
            socket.create_connection((url.hostname or "", port), timeout=3.0).close()
        except (OSError, ValueError) as error:
            raise DisplayError(
                f"--rerun {where}: no viewer answers there ({error}); start it with `rerun --port {PORT}`"
            ) from None


class LiveView:
    """Shows what a learner takes in. `segment` and `metrics` are for the learner's thread; none of it ever raises."""

    def __init__(self, where: str) -> None:
        """`where`: as `check` takes it; nothing is opened before `start`."""
        self._where = where
        self._items: deque[tuple[Callable[[Any], None], int]] = deque()
        self._bytes = 0
        self._ready = threading.Condition()
        self._closing = self._over = False
        self._followed: dict[tuple[str, str, str], _Followed] = {}
        self._thread: threading.Thread | None = None
        self.place = where
        """Where it is really shown: a file that exists already is not overwritten."""
        self.shown = self.dropped = self.failed = 0
        """Segments and rows that were shown, that found no room in the queue, that Rerun would not take."""

    def start(self, run: str, specs: Sequence[RobotSpec], plan: Plan) -> None:
        """Begin to show: `run` is the name under which several files of one run belong together."""
        if self._where.endswith(".rrd"):
            self.place = str(_unused(Path(self._where)))
        self._thread = threading.Thread(target=self._run, args=(run, specs, plan), name="live-view", daemon=True)
        self._thread.start()

    def segment(self, segment: Segment, version: int) -> None:
        """Show it, if it is of a robot and an episode to be shown. `version`: the learner's at this moment."""
        if self._over or not self._follows(segment):
            return
        wall = time.time()
        size = sum(array.nbytes for array in segment.observations.values()) + segment.chunk_path.nbytes
        self._offer(lambda scene: scene.segment(segment, version, wall), size)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Show a row of the run's metrics."""
        if not self._over:
            wall = time.time()
            self._offer(lambda scene: scene.metrics(dict(row), wall), 0)

    def close(self) -> None:
        """Show what waits, for a few seconds at most."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_PATIENCE_S)

    def summary(self) -> str:
        """In one line, what was shown and what was not."""
        lost = [f"{self.dropped} dropped, it was too slow"] if self.dropped else []
        lost += [f"{self.failed} not understood"] if self.failed else []
        return f"live view: {self.shown} segments and rows shown in {self.place}" + "".join(f", {one}" for one in lost)

    def _follows(self, segment: Segment) -> bool:
        now, key = time.monotonic(), (segment.edge, segment.robot, segment.embodiment)
        followed = self._followed.get(key)
        if followed is None:
            if len(self._followed) >= ROBOTS:
                return False
            followed = self._followed[key] = _Followed()
        episode = (segment.session, segment.episode)
        if followed.episode != episode:
            if followed.episode is not None and now - followed.seen < EPISODE_PATIENCE_S:
                return False
            if segment.first_step or now < followed.next:
                return False
            followed.episode, followed.next = episode, now + EPISODE_PERIOD_S
        followed.seen = now
        if segment.last:
            followed.episode = None
        return True

    def _offer(self, show: Callable[[Any], None], size: int) -> None:
        with self._ready:
            if len(self._items) >= QUEUE_ITEMS or (self._items and self._bytes + size > QUEUE_BYTES):
                self.dropped += 1
                return
            self._items.append((show, size))
            self._bytes += size
            self._ready.notify()

    def _run(self, run: str, specs: Sequence[RobotSpec], plan: Plan) -> None:
        try:
            scene = self._open(run, specs, plan)
            while True:
                with self._ready:
                    self._ready.wait_for(lambda: self._items or self._closing)
                    if not self._items:
                        break
                    show, size = self._items.popleft()
                    self._bytes -= size
                try:
                    show(scene)
                    self.shown += 1
                except Exception as error:  # whatever an edge sent: the next segment may be better
                    self.failed += 1
                    if self.failed == 1:
                        log.warning("the live view can't show something: %s", " ".join(str(error).split()))
                scene.counts(self.shown, self.dropped, self.failed)
            scene.close()
        except Exception as error:
            log.error("the live view ends, the run goes on: %s", " ".join(str(error).split()))
        finally:
            self._over = True

    def _open(self, run: str, specs: Sequence[RobotSpec], plan: Plan) -> Any:
        # Here, on its own thread: importing it and opening a viewer take seconds.
        import rerun

        from robotlearn.learner.scene import RerunScene

        rerun.set_strict_mode(True)  # otherwise what it can't take is a warning on the terminal
        stream = rerun.RecordingStream("robotlearn", recording_id=run)
        # At the end of the process it would wait for a viewer that is gone; `close` flushes by itself.
        rerun.unregister_shutdown()
        scene = RerunScene(rerun, stream, specs, plan)
        if self._where.endswith(".rrd"):
            Path(self.place).parent.mkdir(parents=True, exist_ok=True)
            stream.save(self.place, default_blueprint=scene.layout())
        else:
            url = _open_viewer() if self._where == VIEWER else self._where
            url = url if urlsplit(url).path.strip("/") else url.rstrip("/") + "/proxy"
            stream.connect_grpc(url, default_blueprint=scene.layout())
        return scene


class _Followed:
    """Which episode of a robot is being shown, when something of it last came, when the next one may be."""

    def __init__(self) -> None:
        self.episode: tuple[int, int] | None = None
        self.seen = self.next = 0.0


def _open_viewer() -> str:
    """Where Rerun's viewer listens on this machine: the one that runs, else one that is started and outlives us.

    Rerun's own `spawn` would listen on every network of the machine, and write on our terminal.
    """
    if not _answers():
        viewer = subprocess.Popen(
            [sys.executable, "-m", "rerun", "--bind", "127.0.0.1", "--port", str(PORT), "--expect-data-soon"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + VIEWER_PATIENCE_S
        while not _answers():
            if viewer.poll() is not None or time.monotonic() > deadline:
                raise DisplayError(f"Rerun's viewer does not start; `{sys.executable} -m rerun` shows why")
            time.sleep(0.1)
    return f"rerun+http://127.0.0.1:{PORT}/proxy"


def _answers() -> bool:
    try:
        socket.create_connection(("127.0.0.1", PORT), timeout=1.0).close()
    except OSError:
        return False
    return True


def _unused(path: Path) -> Path:
    """`path`, or the first of NAME-2.rrd, NAME-3.rrd, ... that is not there: what was recorded before stays."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_stem(f"{path.stem}-{number}")
    return found
