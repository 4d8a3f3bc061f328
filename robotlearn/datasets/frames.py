"""What a frame of a dataset holds of an episode's steps. The keys are LeRobot's where it has some.

Frame t is step t: what was seen before it, what was done, what came of it. So a dataset has T frames, each with an
action that was executed; the observation after the last step is no frame (an action beside it would be invented) but
lies in the sidecar, as do the chunks of the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.spaces import BY_JOINT
from hal.spec import RobotSpec
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.stored import Episode

ACTION = "action"
LABEL = "label."

# LeRobot's policies take every key that begins with `action` for something to predict, and every one that begins with
# `observation` for something to see: so what the policy proposed is not called action_proposed here.
STEPS: Mapping[str, tuple[str, str]] = {
    "intervention": ("intervention", "bool"),
    "held": ("held", "bool"),
    "next.reward": ("reward", "float32"),
    "next.terminated": ("terminated", "bool"),
    "next.truncated": ("truncated", "bool"),
    "next.success": ("success", "bool"),
}
"""Feature to (array of a segment, dtype): one number per frame."""
PROPOSED = "proposed_action"
VERSION, LOG_PROB, DONE = "policy_version", "log_prob", "next.done"
NOT_OURS = {"index", "episode_index", "frame_index", "task_index", "timestamp"}
Array = NDArray[Any]


def features(spec: RobotSpec, episode: Episode, labels: Mapping[str, int], *, video: bool) -> dict[str, dict[str, Any]]:
    """The features of a dataset of such episodes, as LeRobot describes them. labels: how many numbers each has.

    action           (D,) float32: joint deltas [rad] from the last set-point, then the gripper's width [m]; what was
                     executed after safety and a person
    proposed_action  (D,) float32: what the policy (or the person, while recording) asked for
    policy_version   int64: of the weights whose chunk this step came from, -1 where it came from none
    log_prob         float32: of proposed_action under those weights along the path that was sampled: the sum over the
                     stochastic denoising steps of the log-density of this very action of its chunk; 0 where there is
                     no chunk or no denoising step was stochastic
    intervention     bool: a person acted. held: safety held the arm, or there was no action
    next.reward      float32; next.terminated, next.truncated, next.done (either of them), next.success bool
    label.NAME       (W,) float32, 0 where there is none; label.NAME.given bool: whether there is one
    """
    vector = {"dtype": "float32", "shape": (spec.dim,), "names": list(spec.names)}
    found: dict[str, dict[str, Any]] = {ACTION: dict(vector), PROPOSED: dict(vector)}
    for key, values in episode.observations.items():
        shape = values.shape[1:]
        if values.dtype == np.uint8:
            kind = "video" if video else "image"
            found[key] = {"dtype": kind, "shape": shape, "names": ["height", "width", "channels"]}
        else:
            names = list(spec.names) if key in BY_JOINT else None
            found[key] = {"dtype": values.dtype.name, "shape": shape or (1,), "names": names}
    scalars = {key: dtype for key, (_, dtype) in STEPS.items()}
    scalars |= {DONE: "bool", VERSION: "int64", LOG_PROB: "float32"}
    found |= {key: {"dtype": dtype, "shape": (1,), "names": None} for key, dtype in scalars.items()}
    for name, width in labels.items():
        found[LABEL + name] = {"dtype": "float32", "shape": (width,), "names": None}
        found[f"{LABEL}{name}.given"] = {"dtype": "bool", "shape": (1,), "names": None}
    return found


def columns(episode: Episode) -> dict[str, Array]:
    """Each feature but the labels: (T, ...) of an episode."""
    version, log_prob = chunks_of_steps(episode)
    found = {key: episode.steps(name) for key, (name, _) in STEPS.items()}
    found |= {ACTION: episode.steps("action_executed"), PROPOSED: episode.steps("action_proposed")}
    found |= {VERSION: version, LOG_PROB: log_prob, DONE: found["next.terminated"] | found["next.truncated"]}
    return found | {key: values[:-1] for key, values in episode.observations.items()}


def chunks_of_steps(episode: Episode) -> tuple[Array, Array]:
    """(T,) int64 version and (T,) float32 log-probability of what each step came from: see `features`."""
    version = np.full(len(episode), -1, np.int64)
    log_prob = np.zeros(len(episode), np.float32)
    for part in episode.parts:
        per_action = part.chunk_log_prob.sum(axis=1)  # (C, H): 0 in denoising steps that were not stochastic
        for chunk in range(len(part.chunk_start)):
            start = part.first_step + int(part.chunk_start[chunk])
            first, count = int(part.chunk_first[chunk]), int(part.chunk_executed[chunk])
            version[start : start + count] = part.chunk_version[chunk]
            log_prob[start : start + count] = per_action[chunk, first : first + count]
    return version, log_prob


def check_alike(first: Episode, other: Episode) -> None:
    """Raises DatasetError unless both fit into one dataset."""
    if first.embodiment != other.embodiment:
        raise DatasetError(
            f"these are episodes of {first.embodiment} and of {other.embodiment}, and a dataset is of one robot: "
            "choose with --robot"
        )
    shapes, others = ({key: value.shape[1:] for key, value in one.observations.items()} for one in (first, other))
    if shapes != others:
        raise DatasetError(
            f"{first.instruction!r} is observed as {shapes}, {other.instruction!r} as {others}, and a dataset has one "
            "shape of each: choose with --task"
        )
