"""`Person`: one who may take over from a policy at any time, by an enable switch, and give back."""

from __future__ import annotations

import logging
import math

import numpy as np

from hal.robot import Array, Reading
from hal.spec import RobotSpec
from robotlearn.people.errors import DeviceError
from robotlearn.people.intent import Device, Event, Intent
from robotlearn.people.mapping import SPEED, Mapping

log = logging.getLogger(__name__)

BLEND_S = 0.5


class Person:
    """Asked once per control step. Both hand-overs are smooth:

    * taking over: the person's first action starts from the set-point in force, at rest (the safety layer brakes the
      policy's motion within the arm's limits). A leader arm is crept to at low speed first (`Mapping`);
    * giving back: for `blend_s` seconds the policy's changes of the set-points are taken in part, the part rising from
      0 to 1. So the arm starts slowly, wherever the policy wants it.

    A switch that is held at the start, or since a stop (`release`), must be let go of before it counts.

    A device that is gone lets go of the switch: the policy goes on, `fault` says why, and it isn't asked again.

    device: belongs to this object from now on. Used by one thread.
    """

    def __init__(self, spec: RobotSpec, device: Device, *, speed: float = SPEED, blend_s: float = BLEND_S) -> None:
        if not 0 <= blend_s <= 10:
            raise ValueError(f"blend_s is {blend_s}: expected 0 to 10 seconds")
        self.spec, self._device = spec, device
        self._mapping = Mapping(spec, speed)
        self._blend = math.ceil(blend_s * spec.control_hz - 1e-9)
        self._given_back = self._blend  # steps since
        self._events: list[Event] = []
        self._held = True
        self.interventions = 0
        """How often the person took over."""
        self.enabled = False
        """Whether the last action was the person's."""
        self.fault = ""

    def action(self, reading: Reading, set_point: Array, policy_action: Array) -> Array | None:
        """(D,) float32 what to do instead of `policy_action` (D,); None: that.

        set_point: (dim,) that in force; reading: the newest. An action of the time after giving back is neither the
        person's nor the policy's: record it as an intervention too, since the policy didn't propose it.
        """
        enable, intent = False, None
        if not self.fault:
            try:
                intent = self._read()
                enable = intent.enable and not self._held
            except DeviceError as error:
                self.fault = str(error)
                log.error("%s: the policy goes on alone", error)
        if enable and intent is not None:
            if not self.enabled:
                self.interventions += 1
                self._mapping.engage()
            self.enabled = True
            return self._mapping.action(intent, set_point).astype(np.float32)
        if self.enabled:
            self.enabled, self._given_back = False, 0
        if self._given_back >= self._blend:
            return None
        self._given_back += 1
        share = self._given_back / (self._blend + 1)
        rest = self._mapping.rest(set_point)
        return (rest + share * (policy_action - rest)).astype(np.float32)

    def restart(self) -> None:
        """An episode begins: nothing of the one before goes on, but that a held switch stays held."""
        self._given_back = self._blend

    def release(self) -> None:
        """The arm was stopped: the person must enable anew, and press nothing twice."""
        self._device.release()
        self.enabled, self._held = False, True
        self.restart()

    @property
    def go_on(self) -> str:
        """As the device's."""
        return self._device.go_on

    @property
    def marks(self) -> str:
        """As the device's."""
        return self._device.marks

    def tell(self, text: str) -> None:
        """As the device's."""
        self._device.tell(text)

    def take_events(self) -> tuple[Event, ...]:
        """What was pressed since the last call, and was read by `action` or `look`."""
        events, self._events = tuple(self._events), []
        return events

    def look(self) -> None:
        """Reads the device between episodes, for its events and whether the switch was let go of."""
        if not self.fault:
            try:
                self._read()
            except DeviceError as error:
                self.fault = str(error)

    def _read(self) -> Intent:
        intent = self._device.read()
        self._held = self._held and intent.enable
        self._events += intent.events
        return intent

    def close(self) -> None:
        self._device.close()
