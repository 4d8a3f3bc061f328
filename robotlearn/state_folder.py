"""Where a user's programs keep what must outlive a restart: logs, and records that no learner has acknowledged yet."""

import os
from pathlib import Path


def state_folder() -> Path:
    """`$XDG_STATE_HOME/robotlearn`, by default ~/.local/state/robotlearn; not made. As the XDG specification has it, a
    relative path there counts as none.
    """
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "state") / "robotlearn"
