"""The latching e-stop: a file per robot in the runtime folder, looked for before each set-point."""

from __future__ import annotations

import json
import os
import time

from hal.runtime import checked_name, runtime_folder, write_json

ALL = "@all"
"""The name that stands for every robot of this user on this machine, those included that start later."""


class EStop:
    """That of one robot. Pressed is what has a file: it outlives whoever pressed it, and every arm process.

    So is, for this object, one whose file could not be written, and one whose folder was taken away: who has neither
    can't be told any more.

    It is no safety function in the sense of ISO 13850, which no program can be: have a switch that cuts the power.
    """

    def __init__(self, name: str) -> None:
        self.name = checked_name(name)
        folder = runtime_folder("estop")
        self._own, self._all = folder / name, folder / ALL
        self._paths = (str(self._own), str(self._all))
        self._folder, self._inode = str(folder), folder.stat().st_ino
        self._unwritten = ""

    @property
    def pressed(self) -> bool:
        """Takes microseconds."""
        return os.path.lexists(self._paths[0]) or os.path.lexists(self._paths[1]) or bool(self._lost())

    def press(self, by: str, why: str = "") -> None:
        """Stops the robot at its next tick, and for good. Pressed once more it keeps who was first.

        Raises OSError when the file can't be written: then only this object knows. Use the switch.
        """
        if not self._own.exists():
            self._unwritten = _told(by, why)
            write_json(self._own, {"by": by, "why": why, "at": time.time()})
            self._unwritten = ""

    def clear(self) -> bool:
        """Releases it, on purpose; False when it wasn't pressed. Nothing moves before it is commanded anew."""
        only_here, self._unwritten = bool(self._unwritten), ""
        try:
            self._own.unlink()
        except FileNotFoundError:
            return only_here
        return True

    def reason(self) -> str:
        """Who pressed it, and why; "" when nobody did."""
        for file in (self._own, self._all):
            try:
                content = json.loads(file.read_text())
                return _told(content["by"], content["why"])
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError):
                return "e-stop"  # latched is latched, whatever the file holds
        return self._lost()

    def _lost(self) -> str:
        if self._unwritten:
            return self._unwritten
        try:
            there = os.stat(self._folder).st_ino == self._inode
        except OSError:
            there = False
        return "" if there else f"e-stop: the folder {self._folder} was taken away; start this process anew"


def _told(by: str, why: str) -> str:
    return f"e-stop by {by}{': ' * bool(why)}{why}"
