"""Where the data folders (`hardware_specs`, `configs`, `launch`) are, in a checkout or in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from hal.errors import HalError

FOLDERS = ("hardware_specs", "configs", "launch")


def data_path(*parts: str) -> Path:
    """The absolute path of a data folder, or of something below it: `data_path("hardware_specs", "panda.yaml")`.

    An installed wheel has the folders in `hal/_data`; a checkout has them beside the `hal` package. What is below the
    folder need not exist.

    Raises:
        HalError: the first part is none of the data folders, or the folder is in neither place.
    """
    if not parts or parts[0] not in FOLDERS:
        raise HalError(f"data_path({', '.join(map(repr, parts))}): the first part must be one of {', '.join(FOLDERS)}")
    package = Path(__file__).resolve().parent
    places = (package / "_data", package.parent)
    for place in places:
        if (place / parts[0]).is_dir():
            return place.joinpath(*parts)
    raise HalError(
        f"the data folder {parts[0]!r} is in neither {places[0]} nor {places[1]}: the installation is incomplete"
    )
