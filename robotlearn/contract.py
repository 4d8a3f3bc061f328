"""What edge and learner of one run, and a policy and its checkpoint, must agree on."""

from envs import make_task
from envs.control import JointDeltaControl
from envs.spaces import observation_space
from hal.spec import RobotSpec
from robotlearn.config.config import Config

ContractValue = str | int | float | list[int]


def contract(config: Config, spec: RobotSpec) -> dict[str, ContractValue]:
    """The config's part and the shapes of what the policy sees and does. Imports no torch: a station needs it too."""
    shapes = observation_space(spec, make_task(config.task, spec)).spaces
    features: dict[str, ContractValue] = {f"features.{key}": list(space.shape or ()) for key, space in shapes.items()}
    return {**config.contract(), **features, "action_dim": len(JointDeltaControl(spec, 1).low), "embodiment": spec.name}
