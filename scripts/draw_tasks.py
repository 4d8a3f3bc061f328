"""Draws every task with every arm, some steps into the scripted expert's episode: docs/media/tasks.png."""

import sys
from pathlib import Path

from robotlearn import gl

ARMS = ("panda", "ur5e", "so101")
STEPS = {"reach": 3, "lift": 16, "push": 7, "pick_place": 17, "stack": 18, "peg": 18, "touch": 3, "put": 17}
SEED = 11
REACH_SEEDS = {"panda": 20, "ur5e": 26, "so101": 11}  # with the ball in front of the arm


def draw(path: Path) -> None:
    """Write the picture, one row per arm, by its camera `front`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    from envs import ArmEnv, Expert, make_task
    from envs.scene import build_scene
    from hal import load_spec
    from hal.drivers.mujoco import MujocoRobot

    figure, axes = pyplot.subplots(len(ARMS), len(STEPS), figsize=(14.4, 5.6), dpi=100)
    for row, arm in zip(axes, ARMS, strict=True):
        spec = load_spec(arm)
        for cell, (name, steps) in zip(row, STEPS.items(), strict=True):
            task = make_task(name, spec)
            robot = MujocoRobot(spec, build_scene(spec, task))
            env, expert = ArmEnv(robot, task), Expert(spec, task)
            env.reset(seed=REACH_SEEDS[arm] if name == "reach" else SEED)
            for _ in range(steps):
                env.step(expert.act(env.scene_state())[0])
            cell.imshow(robot.render("front", 320, 320))
            env.close()
            cell.set_axis_off()
            if arm == ARMS[0]:
                cell.set_title(name, fontsize=11)
        row[0].text(-0.04, 0.5, arm, fontsize=11, rotation=90, va="center", ha="right", transform=row[0].transAxes)
    figure.subplots_adjust(0.02, 0.005, 0.995, 0.95, 0.02, 0.02)
    figure.savefig(path)


if __name__ == "__main__":
    if not gl.choose():
        sys.exit("nothing to draw with: neither EGL nor OSMesa is installed")
    draw(Path("docs/media/tasks.png"))
