"""Who comes through a server's door: CURVE keys checked at the handshake, and again with every message."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import zmq

from robotlearn.wire.keys import Allowed, AllowList, KeyPair, Keys, PublicKey

logger = logging.getLogger("robotlearn.wire")
_MANY = 1024  # strangers of whom the log tells one by one


@dataclass(frozen=True)
class Credentials:
    """A client's: its own key, and the one that its server must prove."""

    own: KeyPair
    server: PublicKey


@dataclass(frozen=True)
class ServerKeys:
    """A server's: its own key, and whom it lets in."""

    own: KeyPair
    allowed: AllowList


def credentials(server: str | None, name: str) -> Credentials | None:
    """Of the edge or operator of that name, from its folder of keys; None where the server has no key.

    Raises KeysError when its own key is missing.
    """
    return None if server is None else Credentials(Keys().own(name), PublicKey.parse(server))


def server_keys(own: str | None) -> ServerKeys | None:
    """Of the server that has this public key; None without. Raises KeysError when its secret half isn't here."""
    keys = Keys()
    return None if own is None else ServerKeys(keys.own_half(PublicKey.parse(own)), AllowList(keys))


def named_keys(name: str | None) -> ServerKeys | None:
    """Of the server whose own key has that name here; None without. Raises KeysError when there is none."""
    keys = Keys()
    return None if name is None else ServerKeys(keys.own(name), AllowList(keys))


class Door:
    """Asks the allow-list at each handshake (ZAP, https://rfc.zeromq.org/spec/27/) and knows who sent a message.

    libzmq asks at the handshake only; a connection outlives a revocation. So `holder` is asked for each message.
    Belongs to the thread of the server's socket, and must be made before that binds.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys) -> None:
        self.keys = keys
        self.turned_away = 0  # handshakes with a key that isn't allowed
        self._told: set[bytes] = set()
        self.questions = context.socket(zmq.REP)  # to be polled
        self.questions.setsockopt(zmq.LINGER, 0)
        self.questions.setsockopt(zmq.RCVHWM, 64)
        self.questions.bind("inproc://zeromq.zap.01")

    def attend(self, now: float) -> bool:
        """Answer the handshakes that wait; returns whether the list changed, so that some may have to go."""
        allowed = self.keys.allowed
        changed = allowed.refresh(now)
        while True:
            try:
                version, sequence, _, address, _, mechanism, *credentials = self.questions.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return changed
            key = credentials[0] if mechanism == b"CURVE" and len(credentials) == 1 else b""
            if allowed.get(key) is None:
                changed |= allowed.refresh(math.inf)  # it may have been allowed a moment ago
            known = allowed.get(key) is not None
            if not known:
                self.turned_away += 1
                if key not in self._told and len(self._told) < _MANY:
                    self._told.add(key)
                    logger.warning(
                        "%s is turned away: its key %s isn't allowed by %s",
                        address.decode(errors="replace"), PublicKey(key), allowed.file,
                    )  # fmt: skip
            status, text = (b"200", b"") if known else (b"400", b"this key isn't allowed")
            self.questions.send_multipart([version, sequence, status, text, key.hex().encode(), b""])

    def holder(self, frame: zmq.Frame) -> Allowed | None:
        """Who sent it, by the list as it is now; None when that key isn't allowed any more."""
        return self.keys.allowed.get(bytes.fromhex(str(frame.get("User-Id"))))
