"""Keys: who an edge, a learner or an operator of an arm is, and what each may do.

A key is a Curve25519 pair as CurveZMQ has it (https://rfc.zeromq.org/spec/26/). The secret half stays in a file on the
machine where it was made; the public half is what others write down. A folder of keys holds

    NAME.secret     a pair, readable by its owner only
    allowed.yaml    whom this machine's servers let in: name, public key, roles
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import reprlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
import zmq
from zmq.utils import z85

from robotlearn.durable import write_atomic
from robotlearn.errors import KeysError

logger = logging.getLogger("robotlearn.wire")

Role = Literal["edge", "weights", "arm"]
"""edge: send a learner segments under its own name, and have its weights. weights: only have them. arm: move the arms
that `robotlearn serve` serves.
"""
KEYS_VARIABLE = "ROBOTLEARN_KEYS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PUBLIC, _SECRET = "public-", "secret-"
_LOOK_S = 0.25


def keys_folder() -> Path:
    """`$ROBOTLEARN_KEYS`, by default `$XDG_CONFIG_HOME/robotlearn/keys`, by default ~/.config/robotlearn/keys."""
    if given := os.environ.get(KEYS_VARIABLE):
        return Path(given)
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".config") / "robotlearn" / "keys"


@dataclass(frozen=True)
class PublicKey:
    """32 bytes, as text `public-` and 64 hexadecimal digits."""

    bytes: bytes

    def __str__(self) -> str:
        return _PUBLIC + self.bytes.hex()

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Raises KeysError for anything but what `str` gives."""
        if text.startswith(_SECRET):
            raise KeysError("that is a secret key, which stays in its file; expected the public one, public-...")
        return cls(_raw(text, _PUBLIC))


@dataclass(frozen=True)
class KeyPair:
    """A key that is one's own."""

    public: PublicKey
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class Allowed:
    """Who may connect: the holder of a key, by the name that the learner knows it under, and what it may do."""

    name: str
    key: PublicKey
    roles: tuple[Role, ...]


class Keys:
    """A folder of keys; see the module. What is asked for by name is read from the disk each time."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path if path is not None else keys_folder()
        self.allowed_file = self.path / "allowed.yaml"

    # ---- one's own

    def new(self, name: str) -> KeyPair:
        """Make a key. Raises KeysError when there is one of that name, or the folder can't be written."""
        _check_name(name)
        public, secret = (z85.decode(half) for half in zmq.curve_keypair())
        file = self._file(name)
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise KeysError(f"{file} exists: that key is in use; choose another name, or remove the file") from None
        except OSError as error:
            raise KeysError(f"{file} can't be written: {error.strerror}") from None
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{_PUBLIC}{public.hex()}\n{_SECRET}{secret.hex()}\n")
            stream.flush()
            os.fsync(stream.fileno())
        return KeyPair(PublicKey(public), secret)

    def own(self, name: str) -> KeyPair:
        """The key of that name. Raises KeysError when there is none, it is malformed, or others can read its file."""
        _check_name(name)
        file = self._file(name)
        try:
            mode, text = file.stat().st_mode, file.read_text()
        except FileNotFoundError:
            raise KeysError(f"no key {name!r} in {self.path}: make it with `robotlearn keys new {name}`") from None
        except (OSError, UnicodeDecodeError) as error:
            raise KeysError(f"{file} can't be read: {error}") from None
        if mode & 0o077:
            raise KeysError(f"{file} can be read by others, so it is no secret: make a new key (or chmod 600 it)")
        lines = text.split()
        if len(lines) != 2:
            raise KeysError(f"{file} is no key: expected two lines, public-... and secret-...")
        try:
            pair = KeyPair(PublicKey.parse(lines[0]), _raw(lines[1], _SECRET))
        except KeysError as error:
            raise KeysError(f"{file}: {error}") from None
        if z85.decode(zmq.curve_public(z85.encode(pair.secret))) != pair.public.bytes:
            raise KeysError(f"{file}: its two halves don't belong together")
        return pair

    def own_half(self, public: PublicKey) -> KeyPair:
        """The key whose public half that is. Raises KeysError when its secret half isn't here."""
        for name in self.names():
            if (pair := self.own(name)).public == public:
                return pair
        raise KeysError(f"the secret half of {public} isn't in {self.path}: this machine can't be its owner")

    def names(self) -> list[str]:
        """Of one's own keys."""
        return sorted(file.stem for file in self.path.glob("*.secret"))

    # ---- whom servers here let in

    def allowed(self) -> list[Allowed]:
        """Raises KeysError when the list can't be read."""
        try:
            text = self.allowed_file.read_text()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise KeysError(f"{self.allowed_file} can't be read: {error}") from None
        try:
            found = [_entry(entry) for entry in _parsed(text) or []]
        except (TypeError, KeysError) as error:
            problem = " ".join(str(error).split())
            raise KeysError(f"{self.allowed_file}: {problem}; each entry has name, key and roles") from None
        if min(len({entry.name for entry in found}), len({entry.key for entry in found})) < len(found):
            raise KeysError(f"{self.allowed_file}: two entries have one name or one key")
        return found

    def allow(self, name: str, key: PublicKey, roles: Sequence[Role]) -> list[Allowed]:
        """Let the holder of a key in; what a name or a key was allowed before is replaced, and returned. Raises
        KeysError.
        """
        _check_name(name)
        with self._changing() as entries:
            before = [entry for entry in entries if name == entry.name or key == entry.key]
            entries[:] = [entry for entry in entries if entry not in before]
            entries.append(Allowed(name, key, tuple(roles)))
        return before

    def revoke(self, name: str) -> Allowed:
        """Let it in no more; servers that run notice by themselves. Raises KeysError when nobody has that name."""
        with self._changing() as entries:
            for entry in entries:
                if name in (entry.name, str(entry.key)):
                    entries.remove(entry)
                    return entry
            known = ", ".join(entry.name for entry in entries) or "nobody"
            raise KeysError(f"{name!r} isn't allowed by {self.allowed_file}; allowed: {known}")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Allowed]]:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.path / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                entries = self.allowed()
                yield entries
                entries.sort(key=lambda entry: entry.name)
                plain = [{"name": one.name, "key": str(one.key), "roles": list(one.roles)} for one in entries]
                write_atomic(self.allowed_file, yaml.safe_dump(plain, sort_keys=False).encode())
        except OSError as error:
            raise KeysError(f"{self.allowed_file} can't be written: {error.strerror}") from None

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.secret"


class AllowList:
    """`allowed.yaml` as a running server asks it: read again within 0.25 s of a change. One thread uses it.

    While the file can't be read, what was read last stays in force, and the log says so.
    """

    def __init__(self, keys: Keys) -> None:
        """Raises KeysError when the list can't be read."""
        self._keys = keys
        self._mark: object = None
        self._looked_at = 0.0
        self._known: dict[bytes, Allowed] = {}
        self._read()

    @property
    def file(self) -> Path:
        """Where the list is."""
        return self._keys.allowed_file

    def get(self, key: bytes) -> Allowed | None:
        """Who holds that key, None when nobody may."""
        return self._known.get(key)

    def refresh(self, now: float) -> bool:
        """Look whether the file changed, if that is due (inf: it is); returns whether the list did."""
        if now - self._looked_at < _LOOK_S:
            return False
        self._looked_at = time.monotonic()
        if self._stamp() == self._mark:
            return False
        before = self._known
        try:
            self._read()
        except KeysError as error:
            logger.error("the former list of allowed keys stays in force: %s", error)
        return self._known != before

    def _read(self) -> None:
        self._mark, self._looked_at = self._stamp(), time.monotonic()
        self._known = {entry.key.bytes: entry for entry in self._keys.allowed()}

    def _stamp(self) -> object:
        try:
            stat = self._keys.allowed_file.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KeysError(str(error)) from None
    except (ValueError, KeyError, AttributeError, RecursionError) as error:  # PyYAML's own: a wrong number, date, depth
        raise KeysError(f"that isn't YAML: {error}") from None


def _entry(entry: object) -> Allowed:
    if not isinstance(entry, dict) or set(entry) != {"name", "key", "roles"}:
        raise KeysError(f"{reprlib.repr(entry)} is no entry")
    _check_name(entry["name"])
    return Allowed(entry["name"], PublicKey.parse(str(entry["key"])), roles(entry["roles"]))


def roles(given: object) -> tuple[Role, ...]:
    """Raises KeysError unless these are roles, and at least one."""
    known: tuple[Role, ...] = get_args(Role)
    if not isinstance(given, list) or not given or not all(role in known for role in given):
        raise KeysError(f"{reprlib.repr(given)} aren't roles: expected of {', '.join(known)}")
    return tuple(dict.fromkeys(given))


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise KeysError(f"{reprlib.repr(name)} can't name a key: letters, digits, '.', '_', '-', at most 63")


def _raw(text: str, prefix: str) -> bytes:
    digits = text.removeprefix(prefix)
    if not text.startswith(prefix) or not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise KeysError(f"{text[:80]!r} is no key: expected {prefix} and 64 hexadecimal digits")
    return bytes.fromhex(digits)
