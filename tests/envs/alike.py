"""One arm and a batch of one, from the same state, doing the same."""

from collections.abc import Iterator

import numpy as np

from envs import ArmEnv, BatchArmEnv

Seen = dict[str, np.ndarray]


def alike(env: ArmEnv, batch: BatchArmEnv, steps: int) -> Iterator[tuple[Seen, Seen]]:
    """What each observes after each of so many random actions; both are of lift."""
    env.reset(seed=1)
    batch.reset()
    # The same start: the batch's, put into the single arm.
    state = batch.scene_state()
    env._scene.set_state(state.position[0], {"cube": state.objects["cube"][0]})
    env._control.reset(np.zeros(1, int), state.position)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        action = rng.uniform(batch.control.low, batch.control.high).astype(np.float32)
        one, *_ = env.step(action)
        many, *_ = batch.step(action[None])
        yield one, {key: rows[0] for key, rows in many.items()}
