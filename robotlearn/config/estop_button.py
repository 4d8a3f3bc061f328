"""`--estop` of the command line: a workstation's button, given as in a station's file."""

from collections.abc import Sequence

from pydantic import ValidationError

from hal.estop_input import Contact, contact
from robotlearn.config.complaint import complaint
from robotlearn.config.estop import EstopConfig
from robotlearn.config.load import driver_options
from robotlearn.errors import ConfigError


def estop_button(given: Sequence[str] | None) -> Contact | None:
    """What `key=value` pairs such as evdev.device=PATH name; None for none. Raises ConfigError, DriverError."""
    if not given:
        return None
    try:
        wanted = EstopConfig.model_validate(driver_options(given, "--estop", "evdev.key=KEY_SPACE"))
    except ValidationError as error:
        raise ConfigError(f"--estop: {complaint(error, EstopConfig)[1]}") from None
    return contact(wanted.model_dump(exclude_none=True))
