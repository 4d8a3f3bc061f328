"""What edge and learner of one run, and a policy and its checkpoint, must agree on."""

from collections.abc import Mapping

import numpy as np

from envs import make_task
from envs.control import JointDeltaControl
from envs.spaces import observation_space
from hal.spec import RobotSpec
from robotlearn.config.config import Config
from robotlearn.wire.layout import Layout

ContractValue = str | int | float | list[int]


def misfit(agreed: Mapping[str, ContractValue], layout: Layout) -> str:
    """Why a run with this contract can't learn from segments of that layout; "" when it can.

    An edge's log may still hold segments of a former run, so that the handshake alone doesn't tell.
    """
    dims = layout.dims
    for key, there in (
        ("policy.horizon", dims.horizon),
        ("policy.denoising_steps", dims.denoising_steps),
        ("action_dim", dims.action_dim),
        ("action_dim", next(array.shape[-1] for array in layout.arrays if array.name == "chunk_path")),
    ):
        if agreed[key] != there:
            return f"{key} is {there} in the segment and {agreed[key]} in this run"
    here = {key.removeprefix("features."): shape for key, shape in agreed.items() if key.startswith("features.")}
    seen = {tensor.name: list(tensor.shape[1:]) for tensor in layout.observations}
    if seen != here:
        return f"the segment observes {seen}, this run {here}"
    for tensor in layout.observations:
        if tensor.dtype != np.float32:
            return f"{tensor.name} is {tensor.dtype} in the segment and float32 in this run"
    return ""


def contract(config: Config, spec: RobotSpec) -> dict[str, ContractValue]:
    """The config's part and the shapes of what the policy sees and does. Imports no torch: a station needs it too."""
    shapes = observation_space(spec, make_task(config.task, spec)).spaces
    features: dict[str, ContractValue] = {f"features.{key}": list(space.shape or ()) for key, space in shapes.items()}
    return {**config.contract(), **features, "action_dim": len(JointDeltaControl(spec, 1).low), "embodiment": spec.name}
