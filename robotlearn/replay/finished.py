"""What became of an episode."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Finished(NamedTuple):
    """An episode of which all steps are stored. versions: of its chunks."""

    edge: str
    embodiment: str
    task: str
    steps: int
    success: bool
    reward: float
    versions: NDArray[np.int64]
    intervened: int
    """How many of its steps a person did."""
