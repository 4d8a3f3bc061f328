"""`load_mjcf`: the MJCF that a spec names, ours or a third party's, open for additions such as a table and objects."""

from __future__ import annotations

from typing import Any

import mujoco

from hal.errors import SpecError
from hal.spec import MujocoModel, RobotSpec

TCP_SITE = "robotlearn_tcp"
"""The site that stands for the TCP when the spec gives it as a point of a body."""


def load_mjcf(spec: RobotSpec) -> Any:
    """The MJCF as an `mujoco.MjSpec`, with the TCP's site added where the spec says `tcp_body`.

    Keyframes are left out: nothing here reads them, and MuJoCo refuses them once a scene adds joints. That names
    are right, the body's too, is seen by `Binding.of` in the compiled model.

    Raises SpecError when the spec names no MJCF, or MuJoCo can't read it or what it includes.
    """
    block = mujoco_block(spec)
    try:
        mjcf = mujoco.MjSpec.from_file(str(block.mjcf))
    except ValueError as error:
        raise refused(spec, error) from None
    for key in list(mjcf.keys):
        mjcf.delete(key)
    body = mjcf.body(block.tcp_body) if block.tcp_body is not None else None
    if body is not None:
        body.add_site(name=TCP_SITE, pos=block.tcp_offset, quat=block.tcp_quat)
    return mjcf


def mujoco_block(spec: RobotSpec) -> MujocoModel:
    """The spec's `mujoco` block. Raises SpecError when it has none."""
    if spec.mujoco is None:
        raise SpecError(f"{spec.name}: the spec has no block 'mujoco', which names the kinematic model")
    return spec.mujoco


def refused(spec: RobotSpec, error: ValueError) -> SpecError:
    """What MuJoCo says about the MJCF, in one line."""
    path = mujoco_block(spec).mjcf
    return SpecError(f"{spec.name}: mujoco.mjcf = '{path}': MuJoCo refuses it: {' '.join(str(error).split())}")
