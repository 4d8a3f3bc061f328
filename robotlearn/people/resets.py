"""How the scene of a real robot is set up between two episodes: the arm at its start, then a key, or a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from robotlearn.errors import ConfigError

_POLL_S = 0.05


@dataclass(frozen=True)
class Reset:
    """What an episode waits for, after the environment's `reset` has brought the arm to its start: slowly and through
    the safety layer where it is a real one.

    kind: `pose`, nothing more; `key`, until a person says so; `time`, so many `seconds`.
    """

    kind: Literal["pose", "key", "time"] = "pose"
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Reset:
        """`pose`, `key` or `time:SECONDS`. Raises ConfigError."""
        kind, _, seconds = text.partition(":")
        if text in ("pose", "key"):
            return cls(kind)  # type: ignore[arg-type]
        try:
            number = float(seconds)
            if kind == "time" and 0 <= number <= 3600:
                return cls("time", number)
        except ValueError:
            pass
        raise ConfigError(f"reset {text!r}: expected pose, key or time:SECONDS, at most 3600")

    def wait(
        self,
        go_on: Callable[[], bool],
        asked: Callable[[], bool],
        say: Callable[[str], object],
        how: str = "press Enter",
    ) -> bool:
        """Waits as it says; False when `go_on` no longer holds. The arm rests meanwhile: no command is due.

        asked: whether the person has pressed the key since the last call; asked every 0.05 s in each kind, as `go_on`
        is. say: told in words what is waited for. how: the key, as an order.
        """
        started = time.monotonic()
        shown = ""
        while go_on():
            pressed = asked()
            left = started + self.seconds - time.monotonic()
            if self.kind == "pose" or (self.kind == "key" and pressed) or (self.kind == "time" and left <= 0):
                return True
            text = f"set the scene up, then {how}" if self.kind == "key" else f"set the scene up: {left:.0f} s"
            if text != shown:
                say(text)
                shown = text
            time.sleep(_POLL_S)
        return False
