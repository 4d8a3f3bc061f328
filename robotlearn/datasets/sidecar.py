"""`meta/robotlearn/segments.parquet`: what an episode's segments hold beyond its frames, a row per segment.

Their names (edge, session, sequence, ...), times, the chunks of the policy, and in an episode's last row what was
observed after its last step. LeRobot doesn't look at it. With it the segments come back equal; without it (a dataset
that LeRobot's own tools have rewritten) the frames remain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.stored import Episode
from robotlearn.errors import WireError
from robotlearn.wire.segment import ARRAYS, Group, Segment

PATH = Path("meta") / "robotlearn" / "segments.parquet"
_SCHEMA = 1
_TEXTS = ("edge", "robot", "embodiment", "task")
_COUNTS = ("session", "sequence", "episode", "first_step")
_SIZES = ("steps", "action_dim", "horizon", "denoising_steps", "path_dim")
_FRAMES = {
    "action_proposed", "action_executed", "reward", "intervention", "held", "terminated", "truncated", "success",
}  # fmt: skip
_HERE = {name: value for name, value in ARRAYS.items() if name not in _FRAMES}
_ROWS = 64  # written together
_MOST = 1 << 31  # numbers of one array, before anything is made of what a row says of itself
Array = NDArray[Any]


class SidecarWriter:
    """Writes the sidecar of a dataset in `folder`. about: what a recording says of itself, if it is one."""

    def __init__(self, folder: Path, about: Mapping[str, Any] | None) -> None:
        import pyarrow.parquet as pq

        path = folder / PATH
        path.parent.mkdir(parents=True, exist_ok=True)
        said = json.dumps({"schema": _SCHEMA, "recording": about})
        self._schema = _schema().with_metadata({"robotlearn": said})
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, index: int, episode: Episode) -> None:
        """The dataset's episode number `index`."""
        self._rows += [_row(index, part, final=part is episode.parts[-1]) for part in episode.parts]
        if len(self._rows) >= _ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


def about(folder: Path) -> dict[str, Any] | None:
    """What the recording said of itself that this dataset is of; None where it is of none. Raises DatasetError."""
    path = folder / PATH
    if not path.exists():
        return None
    metadata = _open(path).schema_arrow.metadata or {}
    try:
        said = json.loads(metadata[b"robotlearn"])
        if said["schema"] != _SCHEMA:
            raise DatasetError(f"{path} has schema {said['schema']}, this version reads {_SCHEMA}")
        found = said["recording"]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} is damaged: it doesn't say what it is ({error})") from None
    return found if isinstance(found, dict) else None


def rows(folder: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Each episode's number and the rows of its segments, in order; nothing without a sidecar. Raises DatasetError."""
    path = folder / PATH
    if not path.exists():
        return
    if not any(_open(path).schema_arrow.equals(_schema(groups)) for groups in (True, False)):
        raise DatasetError(f"{path} has other columns than this version reads")
    found: list[dict[str, Any]] = []
    for batch in _open(path).iter_batches(batch_size=_ROWS):
        for number in range(len(batch)):
            row = {name: _cell(batch.column(name)[number], name) for name in batch.schema.names}
            if found and row["episode_index"] != found[-1]["episode_index"]:
                yield found[0]["episode_index"], found
                found = []
            found.append(row)
    if found:
        yield found[0]["episode_index"], found


def segments(rows: list[dict[str, Any]], columns: Mapping[str, Array], where: str) -> list[Segment]:
    """The segments again, of an episode's rows and its frames' arrays by their names in a segment, observations too.

    Raises DatasetError, naming `where`, when they don't fit: the dataset was changed after it was written.
    """
    length, found = len(columns["reward"]), []
    try:
        final = {each["key"]: _final(each) for each in rows[-1]["final"]}
        for number, row in enumerate(rows):
            start, steps = row["first_step"], row["steps"]
            if start != sum(before["steps"] for before in rows[:number]) or start + steps > length or steps < 1:
                raise ValueError(f"segment {number} has {steps} steps from {start} on, of {length}")
            span = slice(start, start + steps)
            observations = {}
            for key, values in columns.items():
                if key.startswith("observation."):
                    seen = values.reshape(length, *final[key].shape[1:])  # one number per frame may be (T,) or (T, 1)
                    rest = seen[start + steps : start + steps + 1] if start + steps < length else final[key]
                    observations[key] = np.concatenate([seen[span], rest])
            arrays: dict[str, Any] = {name: _array(row, name) for name in _HERE}
            arrays |= {name: columns[name][span] for name in _FRAMES}
            texts = {name: row[name] for name in (*_TEXTS, *_COUNTS)}
            group = Group(*row["group"]) if row.get("group") is not None else None
            segment = Segment(**texts, **arrays, observations=observations, group=group)
            segment.validate()
            found.append(segment)
        if sum(segment.steps for segment in found) != length or not found[-1].last:
            raise ValueError(f"they end at step {found[-1].first_step + found[-1].steps}, the episode has {length}")
    except (ValueError, TypeError, KeyError, WireError) as error:
        raise DatasetError(
            f"{where} doesn't fit {PATH}: {error}; without that file its frames can be imported"
        ) from error
    return found


def _schema(groups: bool = True) -> Any:
    """`groups`: False is what was written before there were any."""
    import pyarrow as pa

    kinds = {"f4": pa.float32(), "f8": pa.float64(), "i4": pa.int32(), "i8": pa.int64(), "b1": pa.bool_()}
    fields = [("episode_index", pa.int64())]
    fields += [(name, pa.string()) for name in _TEXTS]
    fields += [(name, pa.int64()) for name in (*_COUNTS, *_SIZES)]
    fields += [(name, pa.list_(kinds[dtype[1:]])) for name, (dtype, _) in _HERE.items()]
    shape = pa.list_(pa.int32())
    final = pa.struct([("key", pa.string()), ("dtype", pa.string()), ("shape", shape), ("data", pa.binary())])
    return pa.schema([*fields, ("final", pa.list_(final)), *([("group", pa.list_(pa.int64()))] if groups else [])])


def _row(index: int, part: Segment, *, final: bool) -> dict[str, Any]:
    sizes = part.dimensions()
    row: dict[str, Any] = {"episode_index": index, "path_dim": part.chunk_path.shape[-1]}
    row |= {name: getattr(part, name) for name in (*_TEXTS, *_COUNTS)}
    row |= {name: getattr(sizes, name) for name in _SIZES if name != "path_dim"}
    row |= {name: getattr(part, name).ravel() for name in _HERE}
    row["group"] = part.group
    seen = part.observations.items() if final else ()
    row["final"] = [
        {"key": key, "dtype": values.dtype.str, "shape": values.shape[1:], "data": values[-1].tobytes()}
        for key, values in seen
    ]
    return row


def _array(row: Mapping[str, Any], name: str) -> Array:
    dtype, dims = _HERE[name]
    sizes = {"T": row["steps"], "D": row["action_dim"], "H": row["horizon"], "N": row["denoising_steps"]}
    sizes |= {"P": row["path_dim"], "N+1": row["denoising_steps"] + 1, "C": len(row["chunk_version"])}
    shape = [sizes[dim] for dim in dims]
    if any(not 0 <= size < _MOST for size in shape):
        raise ValueError(f"{name} would have shape {shape}")
    return np.array(row[name], np.dtype(dtype)).reshape(shape)


def _cell(value: Any, name: str) -> Any:
    """Of one row; an array as an array, for a policy's paths have many numbers."""
    if name not in _HERE:
        return value.as_py()
    return value.values.to_numpy(zero_copy_only=False) if value.is_valid else np.zeros(0)


def _final(each: Mapping[str, Any]) -> Array:
    dtype = np.dtype(each["dtype"])
    if dtype.kind not in "fiub":
        raise ValueError(f"the last {each['key']} has dtype {dtype}")
    return np.frombuffer(each["data"], dtype).reshape(1, *each["shape"])


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} can't be read: {' '.join(str(error).split())}") from None
