"""A workstation's hardware e-stop."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from robotlearn.config.section import Misfit, Section

Text = Annotated[str, Field(min_length=1)]


class EvdevStop(Section):
    """A key of an input device."""

    device: Text = Field(description="The device, such as /dev/input/by-id/usb-...-event-kbd.")
    key: Annotated[str, Field(pattern=r"^(KEY|BTN)_[A-Z0-9_]+$")] | Annotated[int, Field(gt=0, lt=0x300)] = Field(
        description="The key's name in the kernel, such as KEY_SPACE or BTN_TRIGGER, or its number."
    )
    released: bool = Field(
        False, description="Pressed is when the key is up, as a cut wire leaves it: for a button that opens a contact."
    )


class SerialStop(Section):
    """A button between RTS and an input line of a serial port, closed while all is well."""

    port: Text = Field(description="The port, such as /dev/serial/by-id/usb-...; no robot's.")
    line: Literal["cts", "dsr", "cd", "ri"] = Field("cts", description="The line that is on while all is well.")


class EstopConfig(Section):
    """The station's hardware e-stop: one of the two."""

    evdev: EvdevStop | None = Field(None, description="A key of an input device: a keyboard, a USB button.")
    serial: SerialStop | None = Field(None, description="A button at a serial port.")

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.evdev is None) == (self.serial is None):
            raise Misfit((), "expected either evdev or serial, and not both")
        return self
