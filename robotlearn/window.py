"""What `robotlearn view` can show and whether there is a screen: asked before anything heavy is imported."""

from pathlib import Path

from hal.errors import SpecError
from hal.spec import load_spec
from robotlearn import gl
from robotlearn.errors import ConfigError, DisplayError


def is_run(what: str) -> bool:
    """Whether that is a run folder or a checkpoint, rather than a robot's spec."""
    return any((Path(what) / name).is_file() for name in ("config.yaml", "checkpoint.json"))


def check(what: str, *, robot: str | None, task: str | None, expert: bool) -> None:
    """Raises ConfigError, SpecError: neither a run nor a spec, or the options are not for it."""
    if is_run(what):
        return
    if robot is not None:
        raise ConfigError(f"--robot chooses one of a run's robots; {what} is not a run folder")
    try:
        load_spec(what)
    except SpecError:
        if Path(what).is_dir():
            raise ConfigError(f"{what} is neither a run folder (no config.yaml in it) nor a robot's spec") from None
        raise
    if task is None and expert:
        raise ConfigError(f"--expert needs a task: robotlearn view {what} --expert --task TASK")


def need_display(what: str = "") -> None:
    """Raises DisplayError where no window can be opened; with what does without one, if that would show `what`."""
    if not gl.has_display():
        instead = f"; `robotlearn eval {what} --video FILE.mp4` films its policy without one" if is_run(what) else ""
        raise DisplayError(
            f"no display here (neither DISPLAY nor WAYLAND_DISPLAY is set), so no window can be opened{instead}"
        )
