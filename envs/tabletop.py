"""`Tabletop`: where on an arm's table things may lie, and how large they are there."""

from dataclasses import dataclass

import numpy as np

from envs.errors import TaskError
from hal.spec import RobotSpec

FULL_SIDE = 0.15
"""A square table of this side, m, holds things of full size; on smaller tables all lengths shrink with them."""
SMALLEST_SCALE = 0.4
DRAWS = 1000


@dataclass(frozen=True)
class Tabletop:
    """The rectangle of `spec.tabletop`, every point of which the tool reaches from above, pointing down.

    Attributes:
        lower, upper: (2,) its corners, x and y in the base frame, m; the table's top is z = 0.
        scale: tasks multiply their lengths by it; 1 on a full-sized table, in whole hundredths.
    """

    lower: np.ndarray
    upper: np.ndarray
    scale: float

    @classmethod
    def of(cls, spec: RobotSpec, task: str) -> "Tabletop":
        """Raises TaskError when the spec has no tabletop, or one too small for anything to lie on."""
        if spec.tabletop is None:
            raise TaskError(f"task {task}: the spec of robot {spec.name} has no key 'tabletop': where may things lie?")
        lower, upper = np.array(spec.tabletop.lower), np.array(spec.tabletop.upper)
        side = float(np.sqrt(np.prod(upper - lower)))
        scale = round(min(1.0, side / FULL_SIDE), 2)
        if scale < SMALLEST_SCALE:
            raise TaskError(
                f"task {task}: the tabletop of robot {spec.name} is as large as a square of {100 * side:.1f} cm, "
                f"at least {100 * SMALLEST_SCALE * FULL_SIDE:.0f} cm are needed"
            )
        return cls(lower, upper, scale)

    @property
    def centre(self) -> np.ndarray:
        """(2,) the middle, m."""
        return (self.lower + self.upper) / 2

    def inset(self, margin: float) -> "Tabletop":
        """The rectangle without a border of `margin` m; negative widens it."""
        return Tabletop(self.lower + margin, self.upper - margin, self.scale)

    def draw(self, rng: np.random.Generator, n: int, height: float) -> np.ndarray:
        """(n, 3) points, uniform over the rectangle, at that height, m."""
        return rng.uniform([*self.lower, height], [*self.upper, height], (n, 3))


def draw_pairs(
    rng: np.random.Generator, n: int, first: Tabletop, second: Tabletop, nearest: float, farthest: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Two points (n, 3) at z = 0 each, uniform over the pairs that are `nearest` to `farthest` m apart.

    Raises TaskError when there are hardly any such pairs.
    """
    one, two = first.draw(rng, n, 0.0), second.draw(rng, n, 0.0)
    for _ in range(DRAWS):
        distance = np.linalg.norm(one - two, axis=-1)
        bad = np.flatnonzero((distance < nearest) | (distance > farthest))
        if not len(bad):
            return one, two
        one[bad], two[bad] = first.draw(rng, len(bad), 0.0), second.draw(rng, len(bad), 0.0)
    raise TaskError(
        f"a tabletop from {first.lower} to {first.upper} m has no room for two things {nearest:.2f} m apart"
    )
