"""`Guard`: keeps an arm off itself and off the table, by the shapes of its MJCF."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from hal.binding import Binding
from hal.errors import SpecError
from hal.mjcf import load_mjcf, refused
from hal.spec import RobotSpec

Array = npt.NDArray[np.float64]
Pair = tuple[int, int]

_TABLE = "robotlearn_guard_table"
_GRAIN = 5e-4  # [m] motion between two poses of a path that needs no look
_REACH = 0.1  # [m] pairs further apart than this and the margin are far apart, whatever their distance
_SLACK = 1e-6  # [m] rounding of distances


class Guard:
    """Looks along the poses that an arm is about to take for parts that come too near, as the spec's `guard` has it.

    Watched are pairs of geoms of the arm's own MJCF that the model lets collide (contact bits, excludes, parent and
    child), and each such geom that moves against a plane at z = `guard.table` in the base frame. Not watched are

    * pairs that no joint of the arm moves against each other: the fingers of a gripper, what stands still;
    * pairs nearer than `guard.margin` at the home pose, as neighbours are in many models: `unwatched` names them;
    * geoms that collide with nothing (those that are only drawn), objects, and joints that the spec doesn't name, which
      stay where the model has them.

    Distances are `mj_geomDistance`'s, of meshes those of their convex hulls. Not thread-safe.

    Raises SpecError when the spec has no guard, MuJoCo refuses its model, or a part is too low at the home pose.
    """

    def __init__(self, spec: RobotSpec) -> None:
        if spec.guard is None:
            raise SpecError(f"{spec.name}: the spec has no block 'guard', which says what is to be kept apart")
        self.spec, self.margin = spec, spec.guard.margin
        mjcf = load_mjcf(spec)
        if spec.guard.table is not None:
            plane = mujoco.mjtGeom.mjGEOM_PLANE
            place = {"pos": [0, 0, spec.guard.table], "size": [1, 1, 1], "contype": 0, "conaffinity": 0}
            mjcf.worldbody.add_geom(name=_TABLE, type=plane, **place)
        try:
            model = mjcf.compile()
        except ValueError as error:
            raise refused(spec, error) from None
        self._model, self._data = model, mujoco.MjData(model)
        self._binding = Binding.of(spec, model)
        self._table = int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, _TABLE))
        self._lever = _levers(spec, model, self._binding)
        self._qpos = self._data.qpos.copy()
        moved_by = _moved_by(spec, model, self._binding)
        pairs = _colliding(model) if spec.guard.self_collision else []
        if self._table >= 0:
            pairs += [(self._table, int(geom)) for geom in np.flatnonzero(_solid(model))]
        self._set([pair for pair in pairs if (moved_by[pair[0]] != moved_by[pair[1]]).any()])
        near = self._near(self._poses(spec.home[None])[0], 0.0)
        for pair, distance in near.items():
            if self._table in pair:
                raise SpecError(f"{spec.name}: guard.table: at the home pose, {self._words(pair, distance)}")
        self._set([pair for pair in self._pairs if pair not in near])
        self.unwatched = tuple(" and ".join(self._names(pair)) for pair in near)

    def blocked(self, path: Array) -> str | None:
        """Why the arm at path[0] mustn't go on to path[1], ..., path[-1] (m, dim), or None: it may.

        It may when along the rest of the path, every watched pair stays `margin` apart, and one that is nearer at
        path[0] gets no nearer than it is there: so an arm that is too near gets out. Between poses that are looked at,
        a pair may be nearer by at most 0.25 mm. The text names the two bodies and their distance.
        """
        poses = self._poses(path)
        # No point moves further between two poses than the difference of these.
        run = np.concatenate(([0.0], np.cumsum(np.abs(np.diff(path, axis=0)) @ self._lever)))
        reach = min(max(run[-1], _GRAIN), _REACH)
        here: dict[Pair, float] | None = None
        slack: dict[int, float] = {}
        parts = [(1, len(path) - 1)] if len(path) > 1 else []
        while parts:
            first, last = parts.pop()
            between = run[last] - run[first]
            for i in (last, first):
                if i not in slack:
                    near = self._near(poses[i], reach)
                    slack[i] = min([distance - self.margin for distance in near.values()], default=reach)
                if slack[i] < 0:
                    # What is too near already must only not get nearer.
                    here = self._near(poses[0], reach) if here is None else here
                    over = {pair: near[pair] - min(self.margin, here.get(pair, np.inf)) for pair in near}
                    worst = min(over, key=over.__getitem__)
                    if over[worst] < -_SLACK:
                        return self._words(worst, near[worst])
                    slack[i] = max(0.0, over[worst])
                if slack[i] >= between:
                    break
            else:
                if last - first > 1 and between > max(_GRAIN, slack[first] + slack[last]):
                    middle = (first + last) // 2
                    parts += [(first, middle), (middle, last)]
        return None

    def nearest(self, position: Array, reach: float = 0.1) -> float:
        """[m] the smallest distance of a watched pair at `position` (dim,), negative in an overlap; at most `reach`."""
        near = self._near(self._poses(position[None])[0], reach - self.margin)
        return min(near.values(), default=reach)

    def _poses(self, path: Array) -> Array:
        poses = np.tile(self._qpos, (len(path), 1))
        self._binding.write_qpos(path, poses)
        return poses

    def _set(self, pairs: list[Pair]) -> None:
        model = self._model
        self._pairs = pairs
        first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        self._first, self._second = first, second
        self._radius = model.geom_rbound[first] + model.geom_rbound[second]
        self._planes = np.flatnonzero(model.geom_type[first] == mujoco.mjtGeom.mjGEOM_PLANE)

    def _near(self, qpos: Array, reach: float) -> dict[Pair, float]:
        """The watched pairs nearer than `margin + reach`, and how near."""
        model, data = self._model, self._data
        within = self.margin + reach
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        # MuJoCo's own contacts would miss boxes that don't touch yet, so: bounding spheres, then exact distances.
        way = data.geom_xpos[self._second] - data.geom_xpos[self._first]
        gap = np.sqrt(np.einsum("ij,ij->i", way, way))
        if len(self._planes):
            normal = data.geom_xmat[self._first[self._planes]][:, 2::3]
            gap[self._planes] = np.einsum("ij,ij->i", way[self._planes], normal)
        result: dict[Pair, float] = {}
        for index in np.flatnonzero(gap < self._radius + within).tolist():
            pair = self._pairs[index]
            distance = mujoco.mj_geomDistance(model, data, *pair, within, None)
            if distance < within:
                result[pair] = distance
        return result

    def _names(self, pair: Pair) -> list[str]:
        return ["the table" if geom == self._table else self._name(geom) for geom in pair]

    def _name(self, geom: int) -> str:
        body = int(self._model.geom_bodyid[geom])
        # What stands still often belongs to no body: then the geom has the better name.
        name = self._model.body(body).name if body else self._model.geom(geom).name
        return str(name) or f"body {body}"

    def _words(self, pair: Pair, distance: float) -> str:
        one, other = self._names(pair)
        return f"{other} would be {1000 * distance:.1f} mm from {one}, nearer than guard.margin"


def _solid(model: Any) -> npt.NDArray[np.bool_]:
    """(ngeom,) what moves and isn't only drawn."""
    result: npt.NDArray[np.bool_] = (model.body_weldid[model.geom_bodyid] != 0) & (
        (model.geom_contype | model.geom_conaffinity) != 0
    )
    return result


def _colliding(model: Any) -> list[Pair]:
    """The pairs of geoms for which MuJoCo would make contacts (its documentation, "Computation", "Collision"); a plane
    comes first.
    """
    weld, parent = model.body_weldid, model.body_weldid[model.body_parentid[model.body_weldid]]
    family = not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_FILTERPARENT
    excluded = set(model.exclude_signature.tolist())
    pairs = set()
    for one in range(model.ngeom):
        for other in range(one + 1, model.ngeom):
            a, b = sorted((int(model.geom_bodyid[one]), int(model.geom_bodyid[other])))
            related = family and weld[a] != 0 and weld[b] != 0 and (weld[a] == parent[b] or weld[b] == parent[a])
            bits = (model.geom_contype[one] & model.geom_conaffinity[other]) | (
                model.geom_contype[other] & model.geom_conaffinity[one]
            )
            if bits and weld[a] != weld[b] and not related and (a << 16) + b not in excluded:
                pairs.add((one, other))
    explicit = zip(model.pair_geom1.tolist(), model.pair_geom2.tolist(), strict=True)
    pairs |= {(min(pair), max(pair)) for pair in explicit}
    plane = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    return [(one, other) if plane[one] or not plane[other] else (other, one) for one, other in sorted(pairs)]


def _moved_by(spec: RobotSpec, model: Any, binding: Binding) -> npt.NDArray[np.bool_]:
    """(ngeom, J) which of the arm's joints are between the geom and the base."""
    result = np.zeros((model.nbody, len(spec.joints)), dtype=bool)
    for body in range(1, model.nbody):
        first = int(model.body_jntadr[body])
        own = [int(model.jnt_qposadr[joint]) for joint in range(first, first + int(model.body_jntnum[body]))]
        result[body] = result[model.body_parentid[body]] | np.isin(binding.qpos, own)
    of_geom: npt.NDArray[np.bool_] = result[model.geom_bodyid]
    return of_geom


def _levers(spec: RobotSpec, model: Any, binding: Binding) -> Array:
    """(dim,) no point of a watched geom moves further than this per change of the entry [m/rad, 1].

    For a hinge the sum of the lengths from it to the far side of a geom, along the bodies between.
    """
    travel = np.abs(model.jnt_range).max(axis=1) + np.abs(model.qpos0[model.jnt_qposadr])
    joint_at = {int(address): joint for joint, address in enumerate(model.jnt_qposadr)}
    for address, axis in zip(binding.qpos, spec.joints, strict=True):
        travel[joint_at[int(address)]] = max(abs(axis.lower), abs(axis.upper)) + abs(model.qpos0[address])
    slide = model.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE
    far = np.zeros(model.nbody)  # from the origin of a body to the far side of what it carries
    for geom in np.flatnonzero((model.geom_contype | model.geom_conaffinity) != 0):
        body = model.geom_bodyid[geom]
        far[body] = max(far[body], np.linalg.norm(model.geom_pos[geom]) + model.geom_rbound[geom])
    lever = np.ones(model.njnt)
    for body in range(model.nbody - 1, 0, -1):  # children come after their parents
        joints = slice(int(model.body_jntadr[body]), int(model.body_jntadr[body]) + int(model.body_jntnum[body]))
        anchors = np.linalg.norm(model.jnt_pos[joints], axis=1)
        lever[joints] = np.where(slide[joints], 1.0, far[body] + anchors + travel[joints] @ slide[joints])
        parent = model.body_parentid[body]
        reach = far[body] + np.linalg.norm(model.body_pos[body]) + 2 * anchors.sum() + travel[joints] @ slide[joints]
        far[parent] = max(far[parent], reach)
    result = [lever[joint_at[int(address)]] for address in binding.qpos]
    if spec.gripper is not None:
        fingers = lever[[joint_at[int(address)] for address in binding.gripper_qpos]]
        result.append(float((fingers / np.abs(binding.width_scale)).sum() / len(fingers)))
    return np.array(result)
