"""What edge and learner of one run, and a policy and its checkpoint, must agree on. Imports no torch."""

from collections.abc import Mapping, Sequence

import numpy as np

from robotlearn.cells import Cell, cells_of, env_options, observation_shapes, policy_dim
from robotlearn.config.algorithms import PathConfig
from robotlearn.config.config import Config
from robotlearn.wire.encodings import LOSSY
from robotlearn.wire.layout import Layout
from robotlearn.wire.record import RecordHeader

ContractValue = str | int | float | list[int]


def contract(config: Config, cells: Sequence[Cell] | None = None) -> dict[str, ContractValue]:
    """The config's part and the shapes of what each cell's arms observe and do. `cells`: where known already."""
    agreed: dict[str, ContractValue] = dict(config.contract())
    options = env_options(config)
    for cell in cells_of(config) if cells is None else cells:
        agreed[f"{cell.name}.action_dim"] = cell.spec.dim
        for key, shape in observation_shapes(cell, options).items():
            agreed[f"{cell.name}.{key}"] = list(shape)
    return agreed


class Fit:
    """Why a run can't learn from a segment: an edge's log may hold those of a former run with another contract."""

    def __init__(self, config: Config, cells: Sequence[Cell]) -> None:
        options = env_options(config)
        self._horizon, self._path_steps = config.policy.horizon, config.policy.path_steps
        self._path_dim = config.policy.path_dim(policy_dim([cell.spec for cell in cells]))
        by_ratios = config.algorithm if isinstance(config.algorithm, PathConfig) else None
        self._lossless = by_ratios is not None and not by_ratios.lossy_images and config.learner.updates > 0
        self._group = config.group
        self._cells: dict[tuple[str, str], tuple[int, Mapping[str, tuple[int, ...]]]] = {
            (cell.spec.embodiment, words): (cell.spec.dim, observation_shapes(cell, options))
            for cell in cells
            for words in cell.task.instructions
        }

    def __call__(self, header: RecordHeader, layout: Layout) -> str:
        """What is wrong, in words; "" when nothing is."""
        if wrong := self.data(header, layout):
            return wrong
        dims = layout.dims
        path_dim = next(array.shape[-1] for array in layout.arrays if array.name == "chunk_path")
        for key, there, here in (
            ("policy.horizon", dims.horizon, self._horizon),
            ("policy.denoising_steps", dims.denoising_steps, self._path_steps),
            ("action_dim", path_dim, self._path_dim),
        ):
            if there != here:
                return f"{key} is {there} in the segment and {here} in this run"
        size = 1 if header.group is None else header.group.size
        if self._group not in (1, size):
            return f"algorithm.group is {size} in the segment and {self._group} in this run"
        return ""

    def data(self, header: RecordHeader, layout: Layout) -> str:
        """What is wrong with what was observed and done, whatever policy did it; "" when nothing is."""
        cell = self._cells.get((header.embodiment, header.task))
        if cell is None:
            return f"this run has no robot {header.embodiment} that is told {header.task!r}"
        action_dim, shapes = cell
        if layout.dims.action_dim != action_dim:
            return f"action_dim is {layout.dims.action_dim} in the segment and {action_dim} in this run"
        seen = {tensor.name: tensor.shape[1:] for tensor in layout.observations}
        if seen != shapes:
            return f"the segment observes {seen}, this run {dict(shapes)}"
        for tensor in layout.observations:
            expected = np.uint8 if len(tensor.shape) == 4 else np.float32
            if tensor.dtype != expected:
                return f"{tensor.name} is {tensor.dtype} in the segment and {np.dtype(expected)} in this run"
            if self._lossless and tensor.encoding in LOSSY:
                return f"{tensor.name} is encoded as {tensor.encoding}, and this run has no algorithm.lossy_images"
        return ""
