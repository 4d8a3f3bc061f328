"""From a YAML file and overrides to a Config, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hal.data import data_path
from hal.document import Document, KeyPath, dotted, parse, write
from hal.errors import DocumentError
from robotlearn.config.complaint import complaint, nearest, shown
from robotlearn.config.config import Config
from robotlearn.config.variant import chosen, misplaced
from robotlearn.errors import ConfigError


def load_config(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file, or of a shipped one by its name (`laptop`), with `overrides` laid over it.

    An override is `key=value`: the key dotted, with the index of a list's item (`edges.0.arms=64`), the value as in
    YAML (`3e-4`, `inf`, `null`, `[64, 64]`). A robot given as a relative path is looked for beside the file that names
    it (an override: from the working directory) and is absolute in the result, so that `dump` means the same anywhere.

    Raises ConfigError, one line with file, line, key, value and what was expected.
    """
    file = _find(path_or_name)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{file}: can't be read: {reason}") from None
    document = _parse(text, str(file))
    data = document.data
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected keys and values such as 'seed: 0', not {shown(data)}")
    _anchor_robot(data, file.parent)
    kinds = chosen(data)
    overridden: dict[KeyPath, str] = {}
    for override in overrides:
        overridden[_apply(data, override)] = override
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        path, line = misplaced(error, kinds, chosen(data), overridden) or complaint(error, Config)
        number = document.lines.get(path)
        for key, override in reversed(overridden.items()):
            made_it = number is None and key[: len(path)] == path  # a section that the file doesn't have
            if made_it or path[: len(key)] == key:
                raise ConfigError(f"override {override!r}: {line}") from None
        raise ConfigError(f"{file}:{number}: {line}" if number else f"{file}: {line}") from None


def dump(config: Config) -> str:
    """The whole config as YAML, defaults included; `load_config` of it gives an equal one."""
    return write(_plain(config.model_dump()))


def differences(one: Config, other: Config) -> list[str]:
    """The dotted keys in which two configs differ."""
    return [dotted(path) for path in _differing(_plain(one.model_dump()), _plain(other.model_dump()), ())]


def _differing(one: Any, other: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from _differing(one.get(key), other.get(key), (*path, key))
    elif _sections(one) and _sections(other) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differing(left, right, (*path, index))
    elif one != other:
        yield path


def _sections(value: Any) -> bool:
    """A list of sections, such as the edges; any other list is one value."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _parse(text: str, source: str) -> Document:
    try:
        return parse(text, source)
    except DocumentError as error:
        raise ConfigError(str(error)) from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _find(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in data_path("configs").glob("*.yaml")}
    if path.name == str(path_or_name) and path.name in shipped:
        return shipped[path.name]  # also beside a folder of that name, such as the run that was made from it
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, expected a YAML file or the name of a shipped config")
    hint = f"; '{path.stem}' alone is a shipped config" if path.stem in shipped else nearest(path.stem, shipped)
    raise ConfigError(f"{path}: no such file and no shipped config{hint}")


def driver_options(
    given: Sequence[str] | None, flag: str = "--option", such_as: str = "port=/dev/ttyACM0"
) -> dict[str, Any]:
    """What `--option key=value` says, each as an override of a config would. Raises ConfigError, with the flag and an
    example.
    """
    options: dict[str, Any] = {}
    for one in given or ():
        if not one.partition("=")[0].strip() or "=" not in one:
            raise ConfigError(f"{flag} {one!r}: expected key=value, such as {such_as}")
        _apply(options, one)
    return options


def _anchor_robot(data: dict[str, Any], folder: Path) -> None:
    for place in (data, *(data["edges"] if isinstance(data.get("edges"), list) else ())):
        if isinstance(place, dict) and "robot" in place:
            robot = place["robot"]
            place["robot"] = (
                [_anchored(one, folder) for one in robot] if isinstance(robot, list) else _anchored(robot, folder)
            )


def _anchored(robot: Any, folder: Path) -> Any:
    if isinstance(robot, str) and (robot.endswith((".yaml", ".yml")) or "/" in robot):
        return str((folder / robot).resolve())
    return robot


def _apply(data: dict[str, Any], override: str) -> KeyPath:
    """Lay one override over the data, in place; sections that the file left out are made. Returns the key's path."""
    source = f"override {override!r}"
    dotted_key, equals, text = override.partition("=")
    keys = dotted_key.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{source}: expected key=value, such as learner.updates=10 or edges.0.arms=64")
    value = _parse(text, source).data
    path: KeyPath = ()
    here: Any = data
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        part: str | int = key
        if isinstance(here, list):
            if not key.isdecimal() or int(key) >= len(here):
                items = f"expected 0 to {len(here) - 1}" if here else "it is empty"
                raise ConfigError(f"{source}: {dotted(path)}: has no item '{key}', {items}")
            part = int(key)
        elif not isinstance(here, dict):
            raise ConfigError(f"{source}: {dotted(path)}: is {shown(here)}, which has no key '{key}'")
        path = (*path, part)
        if last:
            here[part] = value
        elif isinstance(here, dict):
            here = here.setdefault(key, {})
        else:
            here = here[part]
    if path[-1] == "robot" or path[-2:-1] == ("robot",):  # what the file itself said is absolute by now
        _anchor_robot(data, Path.cwd())
    return path
