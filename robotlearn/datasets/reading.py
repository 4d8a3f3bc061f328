"""Reading a LeRobotDataset (v3) without LeRobot, an episode at a time: its parquet files, its images, its videos."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.writing import REPO, folder_of
from robotlearn.errors import ExtraError

FORMAT = "v3."
_NUMBERS = {"float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"}
_IMAGES = {"image", "video"}
_EPISODE = ("episode_index", "length", "data/chunk_index", "data/file_index")
Array = NDArray[Any]


@dataclass(frozen=True)
class Feature:
    """shape: of one frame's; of an image (height, width, channels). names: of its entries, if it says them."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Frames:
    """One episode: T frames, the words of its task, and of each feature (T, ...): (T, 1) where it is one number."""

    index: int
    task: str
    columns: dict[str, Array]

    def __len__(self) -> int:
        return len(self.columns["frame_index"])


class LeRobotFolder:
    """A dataset on this machine. Features that are neither numbers nor images are not read.

    where: a folder; `repo:USER/NAME` or USER/NAME, which LeRobot or `hf download` has put on this machine.

    Raises DatasetError, ExtraError.
    """

    def __init__(self, where: str) -> None:
        if find_spec("pyarrow") is None:
            raise ExtraError("datasets need pyarrow, which isn't installed here: pip install 'robotlearn[datasets]'")
        self.folder = _found(where)
        info = _info(self.folder)
        try:
            self.fps, self.episodes = Fraction(info["fps"]), int(info["total_episodes"])
            self.robot = str(info.get("robot_type") or "")
            self.features = {
                key: _feature(value)
                for key, value in info["features"].items()
                if value["dtype"] in _NUMBERS or value["dtype"] in _IMAGES
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"{self.folder / 'meta' / 'info.json'} is damaged: {error!r}") from None
        self._tasks = self._read_tasks()
        self._table: tuple[Path, Any] | None = None

    def read(self, keys: set[str], wanted: Callable[[int, int], bool] = lambda index, length: True) -> Iterator[Frames]:
        """The episodes in order, each with these features (and frame_index). Raises DatasetError.

        wanted(index, length) says of each whether it is to be read at all.
        """
        read = [key for key in self.features if key in keys]
        columns = ["frame_index", "task_index"]
        columns += [key for key in read if self.features[key].dtype != "video" and key not in columns]
        for row in self._read_episodes():
            index, length = row["episode_index"], row["length"]
            if not wanted(index, length):
                continue
            table = self._rows(row, columns)
            if len(table) != length:
                raise DatasetError(
                    f"{self.folder}: episode {index} should have {length} frames, {len(table)} are there"
                )
            arrays = {}
            for key in columns:
                if key != "task_index":
                    arrays[key] = self._column(table, key, index)
            for key in read:
                if self.features[key].dtype == "video":
                    arrays[key] = self._video(row, key, length)
            yield Frames(index, self._task(table, index), arrays)

    # ---- inside

    def _read_episodes(self) -> Iterator[dict[str, Any]]:
        found = 0
        for path in sorted((self.folder / "meta" / "episodes").glob("*/*.parquet")):
            file = _parquet(path)
            names = [name for name in file.schema_arrow.names if not name.startswith("stats/") and name != "tasks"]
            if lacks := [name for name in _EPISODE if name not in names]:
                raise DatasetError(f"{path} lacks the columns {', '.join(lacks)}")
            for batch in file.iter_batches(columns=names, batch_size=256):
                for row in batch.to_pylist():
                    if row["episode_index"] != found:
                        raise DatasetError(f"{path}: episode {row['episode_index']} lies where {found} should")
                    found += 1
                    yield row
        if found != self.episodes:
            raise DatasetError(f"{self.folder} should have {self.episodes} episodes, {found} are there")

    def _rows(self, row: dict[str, Any], columns: list[str]) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        numbers = row["data/chunk_index"], row["data/file_index"]
        path = self.folder / "data" / f"chunk-{numbers[0]:03d}" / f"file-{numbers[1]:03d}.parquet"
        try:
            if self._table is None or self._table[0] != path:
                self._table = None  # not two of them in memory
                self._table = path, _parquet(path).read(columns=[*columns, "episode_index"])
            return self._table[1].filter(pc.equal(self._table[1]["episode_index"], row["episode_index"]))
        except (pa.ArrowException, KeyError) as error:
            raise DatasetError(f"{path} can't be read: {' '.join(str(error).split())}") from None

    def _column(self, table: Any, key: str, index: int) -> Array:
        import pyarrow as pa

        feature, values = self.features[key], table[key].combine_chunks()
        if feature.dtype == "image":
            return np.stack(
                [_picture(one, feature, f"{self.folder}: episode {index}: {key}") for one in values.to_pylist()]
            )
        while isinstance(values, pa.ExtensionArray) or values.type.num_fields:  # LeRobot's matrices are of such types
            values = values.storage if isinstance(values, pa.ExtensionArray) else values.flatten()
        array = np.asarray(values.to_numpy(zero_copy_only=False))
        try:
            return array.astype(feature.dtype).reshape(len(table), *feature.shape)
        except (ValueError, TypeError):
            raise DatasetError(
                f"{self.folder}: episode {index}: {key} has {array.size} numbers, not {len(table)} x {feature.shape}"
            ) from None

    def _task(self, table: Any, index: int) -> str:
        numbers = set(table["task_index"].to_pylist())
        if len(numbers) != 1 or not numbers <= self._tasks.keys():
            raise DatasetError(
                f"{self.folder}: episode {index} has the tasks {sorted(numbers)}, expected one known one"
            )
        return self._tasks[numbers.pop()]

    def _read_tasks(self) -> dict[int, str]:
        path = self.folder / "meta" / "tasks.parquet"
        table = _parquet(path).read()
        # It is a pandas table whose index are the texts, which is called so or not at all.
        texts = [name for name in table.column_names if name != "task_index"]
        if "task_index" not in table.column_names or len(texts) != 1:
            raise DatasetError(f"{path} has the columns {table.column_names}, expected task_index and the texts")
        return dict(zip(table["task_index"].to_pylist(), map(str, table[texts[0]].to_pylist()), strict=True))

    def _video(self, row: dict[str, Any], key: str, length: int) -> Array:
        from robotlearn.datasets.videos import frames

        try:
            chunk, file, start = (
                row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index", "from_timestamp")
            )
        except KeyError as error:
            raise DatasetError(f"{self.folder}: episode {row['episode_index']} doesn't say where {error} is") from None
        path = self.folder / "videos" / key / f"chunk-{chunk:03d}" / f"file-{file:03d}.mp4"
        return frames(path, start, self.fps, length, self.features[key].shape)


def _found(where: str) -> Path:
    if where.startswith(REPO) or (not Path(where).exists() and where.count("/") == 1 and where[0] not in "./~"):
        name = where.removeprefix(REPO)
        folder = folder_of(REPO + name)
        kept = folder.parents[len(Path(name).parts) - 1] / "hub" / f"datasets--{name.replace('/', '--')}" / "snapshots"
        snapshots = sorted(kept.glob("*/meta/info.json"), key=lambda path: path.stat().st_mtime)
        if not (folder / "meta" / "info.json").is_file() and snapshots:
            return snapshots[-1].parents[1]
        if not folder.is_dir():
            raise DatasetError(
                f"{where}: there is no such folder, and no such dataset in LeRobot's cache: hf download {name} "
                f"--repo-type dataset --local-dir {folder}"
            )
        return folder
    return Path(where)


def _info(folder: Path) -> dict[str, Any]:
    path = folder / "meta" / "info.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{folder} is no LeRobotDataset: there is no meta/info.json in it") from None
    except ValueError as error:
        raise DatasetError(f"{path} is damaged: {error}") from None
    version = found.get("codebase_version") if isinstance(found, dict) else None
    if not str(version).startswith(FORMAT):
        raise DatasetError(
            f"{folder} is a LeRobotDataset of version {version}, this reads v3.0: python -m "
            "lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=USER/NAME converts it"
        )
    return found  # type: ignore[no-any-return]


def _feature(value: dict[str, Any]) -> Feature:
    shape, names = tuple(int(size) for size in value["shape"]), value.get("names")
    if (
        value["dtype"] in _IMAGES
        and len(shape) == 3
        and isinstance(names, list)
        and names
        and names[0].startswith("channel")
    ):
        shape = (*shape[1:], shape[0])
    flat = names if isinstance(names, list) else next(iter(names.values()), []) if isinstance(names, dict) else []
    return Feature(value["dtype"], shape, tuple(map(str, flat)) if isinstance(flat, list) else ())


def _picture(value: Any, feature: Feature, what: str) -> Array:
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(value["bytes"]), formats=("PNG", "JPEG")) as picture:
            array = np.array(picture.convert("RGB"))
    except (OSError, TypeError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise DatasetError(f"{what} can't be decoded: {error}") from None
    if array.shape != feature.shape:
        raise DatasetError(f"{what} has shape {array.shape}, the dataset says {feature.shape}")
    return array


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} can't be read: {' '.join(str(error).split())}") from None
