"""Whether a run can be taught from the recorded demonstrations that its config names, before anything is made.
Imports no torch.
"""

from pathlib import Path

from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import cells_of, env_options, observation_shapes
from robotlearn.config.config import Config
from robotlearn.errors import ConfigError, LogError
from robotlearn.people import recording
from robotlearn.people.errors import RecordingError


def check_demonstrations(config: Config) -> None:
    """Look at what a folder of demonstrations says of itself, and at its log's headers; nothing where the config names
    none.

    Raises ConfigError: no such folder, one of another robot, of observations that this run has not, or without a
    successful episode, or a process records into it now.
    """
    wanted = config.demonstrations
    if wanted.path is None:
        return
    (cell,) = cells_of(config)
    folder = Path(wanted.path)
    try:
        about = recording.about(folder)
        with SegmentStore(folder / "log") as store:
            headers = [header for _, header in store.scan_headers()]
    except (RecordingError, LogError) as error:
        raise ConfigError(f"demonstrations.path: {error}") from None
    for found in (str(about.get("robot")), *(header.embodiment for header in headers)):
        if found not in (cell.spec.name, cell.spec.embodiment):
            raise ConfigError(
                f"demonstrations.path: {folder} holds demonstrations of {found}, the run is for {cell.spec.name}"
            )
    seen = about.get("observations")
    for key, shape in observation_shapes(cell, env_options(config)).items():
        if not isinstance(seen, dict) or seen.get(key) != list(shape):
            raise ConfigError(f"demonstrations.path: the run observes {key} {list(shape)}, {folder} has {seen}")
    if not any(header.last and header.success for header in headers):
        raise ConfigError(f"demonstrations.path: {folder} holds no successful demonstration")
