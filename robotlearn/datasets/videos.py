"""The frames of an episode in a video file, which several episodes may share."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robotlearn.datasets.errors import DatasetError

Images = NDArray[np.uint8]


def frames(path: Path, start_s: float, fps: Fraction, count: int, shape: tuple[int, ...]) -> Images:
    """(count, height, width, 3): those shown at start_s, start_s + 1 / fps, ..., in RGB as PyAV converts them.

    Each is the one whose time is nearest. Raises DatasetError when one is missing, or of another shape than this.
    """
    import av

    found = np.empty((count, *shape), np.uint8)
    near = 0.5 / float(fps)
    done = 0
    try:
        # Only as an MP4: other formats may name further files, or addresses.
        with av.open(str(path), format="mp4") as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if stream.time_base is not None:
                container.seek(max(0, int((start_s - near) / stream.time_base)), stream=stream)
            for frame in container.decode(stream):
                if done == count:
                    break
                if frame.time is None or frame.time < start_s + done / fps - near:
                    continue
                picture = frame.to_ndarray(format="rgb24")
                if frame.time > start_s + done / fps + near or picture.shape != shape:
                    break
                found[done] = picture
                done += 1
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{path} can't be decoded: {error}") from None
    if done < count:
        raise DatasetError(f"{path}: frame {done} of {count} from {start_s:g} s on is missing, or isn't {shape}")
    return found
