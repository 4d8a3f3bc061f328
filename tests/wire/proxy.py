"""A TCP proxy that a test can cut, pause and slow down, to stand between an edge and its learner."""

import contextlib
import selectors
import socket
import threading
import time


class Proxy:
    """Forwards connections to `target` (tcp://HOST:PORT). Used as a context manager; its thread ends with it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.forwarded = 0  # bytes from the target
        self.seen = bytearray()  # all that went through
        self.cut_after: int | None = None  # bytes from the target, then every connection is cut once
        self.paused = False
        self.refusing = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break all connections with a reset; new ones are accepted."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for one in (end for pair in pairs for end in pair):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()
        self.cut()
        self._listener.close()

    def _run(self) -> None:
        self._listener.setblocking(False)
        while not self._stop:
            with contextlib.suppress(BlockingIOError):
                client, _ = self._listener.accept()
                host, port = self.target.removeprefix("tcp://").rsplit(":", 1)
                try:
                    if self.refusing:
                        raise ConnectionRefusedError
                    server = socket.create_connection((host, int(port)))
                except OSError:
                    client.close()
                else:
                    with self._lock:
                        self._pairs.append((client, server))
            if not self.paused:
                self._forward()
            time.sleep(0.0005)

    def _forward(self) -> None:
        with self._lock:
            pairs = list(self._pairs)
        with selectors.DefaultSelector() as selector:
            for client, server in pairs:
                with contextlib.suppress(ValueError, KeyError):
                    selector.register(client, selectors.EVENT_READ, (server, False))
                    selector.register(server, selectors.EVENT_READ, (client, True))
            ready = selector.select(0.005) if pairs else []
            for key, _ in ready:
                to, from_target = key.data
                try:
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        raise ConnectionError
                    self.seen += data
                    to.sendall(data)
                except OSError:
                    self._drop(to)
                    continue
                self.forwarded += len(data) * from_target
                if self.cut_after is not None and self.forwarded >= self.cut_after:
                    self.cut_after = None
                    self.cut()
                    return

    def _drop(self, one: socket.socket) -> None:
        with self._lock:
            gone = [pair for pair in self._pairs if one in pair]
            self._pairs = [pair for pair in self._pairs if one not in pair]
        for end in (end for pair in gone for end in pair):
            end.close()
