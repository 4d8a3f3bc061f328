"""What somebody else's frames are to a robot of ours: names, units, kind of actions, rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from envs.resize import fit
from envs.spaces import BY_JOINT, ENVIRONMENT_STATE, IMAGES, STATE, TRACKING_ERROR
from hal.errors import nearest
from hal.spec import RobotSpec
from robotlearn.datasets.actions import absolute_of, deltas_of, from_unit, plausible
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.frames import ACTION, DONE, NOT_OURS, PROPOSED, STEPS
from robotlearn.datasets.reading import Feature, Frames

Unit = Literal["si", "deg", "lerobot"]
Kind = Literal["deltas", "absolute"]
Array = NDArray[Any]


@dataclass(frozen=True)
class Conversion:
    """Each field is an option of `robotlearn data import`.

    rename: key there to key here, "" leaves it out. actions: joint deltas [rad] from the last set-point, as ours are,
    or absolute set-points; None: deltas where the dataset has our features, else absolute. unit: of state and action:
    si is rad and m, deg means degrees for the joints, lerobot what the block `lerobot` of the spec says. every: one
    step is so many frames. image_size: (height, width), None: as they are.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    actions: Kind | None = None
    unit: Unit = "si"
    every: int = 1
    image_size: tuple[int, int] | None = None

    def describe(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**vars(self), "rename": dict(self.rename), "image_size": self.image_size and list(self.image_size)}

    def names(self, features: Mapping[str, Feature], spec: RobotSpec) -> dict[str, str]:
        """Key there to key here, of all that an import takes. Raises DatasetError naming the key and the option."""
        for key in self.rename:
            if key not in features:
                raise DatasetError(
                    f"--rename {key}={self.rename[key]}: the dataset has no {key!r}: {nearest(key, features)}"
                )
        named = {key: self.rename.get(key, key) for key in features if key not in NOT_OURS}
        taken: dict[str, str] = {}
        for there, here in named.items():
            if here in taken.values():
                twice = ", ".join(key for key, value in named.items() if value == here)
                raise DatasetError(f"{twice} would all be {here}: --rename KEY= leaves one out")
            if here and _is_taken(here, features[there], there, spec):
                taken[there] = here
        _check_vector(STATE, "--rename", taken, features, spec)
        _check_vector(ACTION, "--rename", taken, features, spec)
        if TRACKING_ERROR in taken.values():
            _check_vector(TRACKING_ERROR, "--rename", taken, features, spec)
            if self.unit != "si":
                there = next(key for key, here in taken.items() if here == TRACKING_ERROR)
                raise DatasetError(f"{there} is not converted from unit {self.unit}: --rename {there}= leaves it out")
        return taken

    def check_rate(self, fps: Fraction, spec: RobotSpec) -> None:
        """Raises DatasetError unless so many frames of the dataset are a control period of the robot."""
        if fps != self.every * round(spec.control_hz):
            share = fps / round(spec.control_hz)
            mends = f"--every {share}, or " if share.denominator == 1 and share > 1 else ""
            steps = f", {float(fps / self.every):g} steps/s with --every {self.every}" if self.every > 1 else ""
            raise DatasetError(
                f"the dataset has {float(fps):g} frames/s{steps}; {spec.name} has a control_hz of {spec.control_hz:g}: "
                f"{mends}--robot with a spec that has control_hz: {float(fps / self.every):g}"
            )

    def apply(
        self, frames: Frames, names: Mapping[str, str], spec: RobotSpec
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """An episode's arrays per step (T, ...) by their names in a segment, and its observations (T + 1, ...).

        After the last frame the observation isn't known; it is taken to be the last one. Raises DatasetError.
        """
        there = {here: key for key, here in names.items()}
        columns, n = frames.columns, len(frames)
        ends = np.minimum(np.arange(0, n, self.every) + self.every, n)  # behind each step's last frame
        seen = np.append(np.arange(0, n, self.every), n - 1)
        observations = {here: self._observed(here, columns[key][seen], spec) for key, here in names.items()
                        if here.startswith("observation.")}  # fmt: skip
        state = from_unit(columns[there[STATE]], spec, self.unit)
        plausible(state, spec, f"episode {frames.index}", self.unit)
        observations[STATE] = state[seen].astype(np.float32)

        def actions(key: str) -> Array:
            kind = self.actions or ("deltas" if PROPOSED in there else "absolute")
            given = from_unit(columns[key], spec, self.unit, deltas=kind == "deltas")
            targets = absolute_of(given, state[0], spec) if kind == "deltas" else given
            if kind == "deltas" and self.every == 1:
                return given
            return deltas_of(targets[ends - 1], state[0], spec)

        steps = {"action_executed": actions(there[ACTION])}
        steps["action_proposed"] = actions(there[PROPOSED]) if PROPOSED in there else steps["action_executed"]
        steps |= _outcome(columns, there, ends, self.every)
        steps["monotonic"] = steps["wall"] = np.arange(len(ends)) * spec.dt
        return steps, observations

    def _observed(self, key: str, values: Array, spec: RobotSpec) -> Array:
        if key.startswith(IMAGES) and self.image_size is not None:
            return np.stack([fit(image, self.image_size) for image in values])
        return values if values.dtype == np.uint8 else values.astype(np.float32)


def _is_taken(here: str, feature: Feature, there: str, spec: RobotSpec) -> bool:
    """Whether an import takes a feature that is called so; DatasetError where that name can't be."""
    if feature.dtype in ("image", "video"):
        cameras = [IMAGES + camera.name for camera in spec.cameras]
        if here not in cameras:
            first = cameras[0] if cameras else ""
            known = f"--rename {there}={first}, or " if first else ""
            raise DatasetError(
                f"{there} is of no camera of {spec.name} ({', '.join(cameras) or 'it has none'}): "
                f"{known}--rename {there}= leaves it out"
            )
        return True
    return here in (*BY_JOINT, ENVIRONMENT_STATE, ACTION, PROPOSED, DONE) or here in STEPS


def _check_vector(
    key: str, option: str, names: Mapping[str, str], features: Mapping[str, Feature], spec: RobotSpec
) -> None:
    there = next((one for one, here in names.items() if here == key), None)
    if there is None:
        vectors = ", ".join(one for one, feature in features.items() if feature.shape == (spec.dim,))
        raise DatasetError(
            f"the dataset has no {key}: {option} FROM={key} says what is; of {spec.dim} numbers it has "
            f"{vectors or 'none'}"
        )
    feature = features[there]
    if feature.shape != (spec.dim,) or feature.dtype in ("image", "video"):
        raise DatasetError(
            f"{there} has shape {feature.shape} ({', '.join(feature.names) or 'no names'}), {spec.name} has {spec.dim} "
            f"({', '.join(spec.names)}): another --robot, or {option} OTHER={key}"
        )


def _outcome(columns: Mapping[str, Array], there: Mapping[str, str], ends: Array, every: int) -> dict[str, Array]:
    """Reward, ends, success, who acted: as the frames say, else those of a person's demonstration that succeeded."""
    steps, starts = len(ends), np.arange(len(ends)) * every

    def flags(key: str, otherwise: bool) -> Array:
        if key not in there:
            return np.full(steps, otherwise)
        return np.logical_or.reduceat(columns[there[key]].reshape(-1).astype(bool), starts)

    success = flags("next.success", False)
    if "next.success" not in there:
        success[-1] = bool(columns[there[DONE]].reshape(-1)[-1]) if DONE in there else True
    terminated, truncated = flags("next.terminated", False), flags("next.truncated", False)
    terminated[:-1] = truncated[:-1] = False
    if not terminated[-1] and not truncated[-1]:
        terminated[-1] = success[-1]
        truncated[-1] = not success[-1]
    if "next.reward" in there:
        reward = np.add.reduceat(columns[there["next.reward"]].reshape(-1).astype(np.float32), starts)
    else:
        reward = np.zeros(steps, np.float32)
        reward[-1] = success.any()
    return {
        "reward": reward, "terminated": terminated, "truncated": truncated, "success": success,
        "intervention": flags("intervention", True), "held": flags("held", False),
    }  # fmt: skip
