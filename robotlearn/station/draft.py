"""The station file that `robots --scan --write` drafts from what is attached, for a person to go over."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hal.discovery import Found
from hal.document import write
from hal.spec import load_spec
from robotlearn.errors import ConfigError

_ARMS = ("serial", "topics", "emulator", "served")
_HEAD = """\
# What stands at this workstation: written by `robotlearn robots --scan --write`, yours to edit and keep.
#   robotlearn station check {file}    what is valid, and what is attached
#   robotlearn station up {file}       start it

learner: null    # where the learner listens, such as tcp://learner.example:5555; null: --learner says it
config: null     # the run's config, a YAML file or the name of a shipped one; null: --config says it

# Each robot: name (yours to choose; its edge is called so too), robot (its spec, a name or a YAML file), driver (what
# talks to it) and options (what that driver needs). task, where the run has several, says which one it works on.
robots:
"""
_ESTOP = """
# A hardware e-stop for all of them: a button between RTS and CTS of a serial port, closed while all is well, ...
# estop: {serial: {port: /dev/serial/by-id/..., line: cts}}
# ... or a key of an input device.
# estop: {evdev: {device: /dev/input/by-id/..., key: KEY_SPACE}}
"""


def draft(found: Sequence[Found], file: str) -> str:
    """The text of a station file: a robot for each arm that a spec fits, real or emulated; the rest in comments.

    Where there is no arm, a simulated one. What can't be told (which servo board is the leader's, which camera looks
    where) is left to the person, in a comment beside it.
    """
    arms = [one for one in found if one.spec and one.kind in _ARMS]
    simulators = [one for one in found if one.kind == "simulator"]
    cameras = [one for one in found if one.kind == "camera"]
    unknown = [one for one in found if not one.spec and one.kind in ("serial", "topics", "served")]
    chosen = arms or simulators[:1]
    parts = [_HEAD.format(file=file)]
    taken: set[str] = set()
    for one in chosen:
        parts.append(_robot(one, _name(one, taken), cameras))
    for one in unknown:
        parts.append(
            f"\n  # {_plain(f'{one.where}: {one.what}')}\n  # No shipped spec fits: write one, then add it here.\n"
        )
    rest = [one for one in simulators if one not in chosen]
    if rest:
        parts.append("\n  # Simulated arms, to rehearse with:\n")
        parts += [_commented(_robot(one, _name(one, taken), [])) for one in rest]
    return "".join(parts) + _ESTOP


def write_draft(found: Sequence[Found], path: Path, *, force: bool) -> None:
    """Write it. Raises ConfigError when the file is there, unless `force`: a person may have edited it."""
    text = draft(found, str(path))
    if force:  # what a fault of the draft or the disk leaves is the old file
        path = path.resolve()
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            new.write_text(text, encoding="utf-8")
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        return
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} is there already: choose another name, or --force to replace it") from None


def _robot(one: Found, name: str, cameras: Sequence[Found]) -> str:
    entry: dict[str, Any] = {"name": name, "robot": one.spec, "driver": one.driver}
    options = dict(one.options)
    if one.kind == "serial":
        options["id"] = name
    if options:
        entry["options"] = options
    lines = write([entry]).splitlines()
    if one.kind == "serial":
        told = f"    # whose calibration file: lerobot-calibrate --robot.id={name}"
        lines = [line + told if line.strip().startswith("id: ") else line for line in lines]
        lines += _camera_lines(one.spec, cameras)
    more = "; its own port or topics, if they stand below too, are taken by it" if one.kind == "served" else ""
    return f"\n  # {one.kind}: {_plain(one.what)}{more}\n" + "".join(f"  {line}\n" for line in lines)


def _camera_lines(spec: str, cameras: Sequence[Found]) -> list[str]:
    """What to uncomment once it is known which camera looks where."""
    lines = ["    # cameras:"] if cameras else []
    for camera, one in zip(cameras, itertools.cycle(load_spec(spec).cameras), strict=False):
        size = f"width: {one.width}, height: {one.height}, fps: {one.fps:g}"
        options = f"{{type: opencv, index_or_path: {camera.where}, {size}}}"
        lines.append(f"    #   {one.name}: {options}    # {_plain(camera.what)}")
    return lines


def _plain(text: str) -> str:
    """What a device or a node says of itself, such that it can't end the comment that it stands in."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _commented(text: str) -> str:
    lines = [line.removeprefix("  ") for line in text.splitlines()]
    return "".join(f"  # {line}\n" for line in lines if line and not line.startswith("#"))


def _name(one: Found, taken: set[str]) -> str:
    """A name of its own: the emulator's, the topic's namespace, the spec's; with a number where it is taken."""
    namespace = one.where.rpartition("/")[0].strip("/")
    given = {"emulator": one.what, "served": one.what, "topics": namespace}.get(one.kind, "") or one.spec
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", given).strip("-._")[:48] or one.spec
    name = next(name for name in (safe, *(f"{safe}-{i}" for i in range(2, 1000))) if name not in taken)
    taken.add(name)
    return name
