"""An Imitator as a checkpoint that LeRobot itself loads."""

from pathlib import Path

from policies.imitators.imitator import Imitator
from policies.vla.save import write


def save(policy: Imitator, folder: Path) -> None:
    """Write it. Raises OSError."""
    write(policy.lerobot.config, policy.lerobot.state_dict(), policy.statistics() | policy.colours(), folder)
