"""Draws every task with every arm, some steps into the scripted expert's episode: docs/media/tasks.png."""

import sys
from pathlib import Path

from robotlearn import gl

ARMS = ("panda", "ur5e", "so101")
TASKS = ("reach", "lift", "push", "pick_place", "stack", "peg")
STEPS = {"reach": 2, "lift": 12, "push": 9, "pick_place": 16, "stack": 21, "peg": 20}


def draw(path: Path) -> None:
    """Write the picture, one row per arm."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    from envs import BatchArmEnv, Expert
    from hal import load_spec

    figure, axes = pyplot.subplots(len(ARMS), len(TASKS), figsize=(12, 4.9), dpi=100)
    for row, arm in zip(axes, ARMS, strict=True):
        spec = load_spec(arm)
        for cell, task in zip(row, TASKS, strict=True):
            env = BatchArmEnv(spec, task, 1, seed=3)
            expert = Expert(spec, env.task)
            env.reset()
            for _ in range(STEPS[task]):
                env.step(expert.act(env.scene_state()))
            cell.imshow(env.render()[0][:, 40:280])
            env.close()
            cell.set_axis_off()
            if arm == ARMS[0]:
                cell.set_title(task, fontsize=11)
        row[0].text(-0.05, 0.5, arm, fontsize=11, rotation=90, va="center", ha="right", transform=row[0].transAxes)
    figure.subplots_adjust(0.02, 0.0, 1, 0.94, 0.02, 0.02)
    figure.savefig(path, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    if not gl.choose():
        sys.exit("nothing to draw with: neither EGL nor OSMesa is installed")
    draw(Path("docs/media/tasks.png"))
