"""Training by sight with each encoding of images: edges of both kinds, as real processes."""

from __future__ import annotations

import numpy as np
import pytest

from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import cells_of, env_options
from robotlearn.config.load import load_config
from robotlearn.edge.rollout import BatchRollout
from robotlearn.inputs import Inputs
from robotlearn.metrics import read_metrics
from robotlearn.policy import build_policy
from robotlearn.wire import layout, record
from robotlearn.wire.encodings import IMAGES
from robotlearn.wire.segment import Segment
from tests.e2e.harness import Site, accounts, batch, check_metrics, paced, tiny

CAMERA = f"{IMAGES}front"
pytestmark = [pytest.mark.slow, pytest.mark.renders, pytest.mark.timeout(600)]


def by_sight(encoding: str) -> dict[str, object]:
    config = tiny(
        batch("left", images=encoding), paced("right", images={"front": encoding}),
        algorithm={"lossy_images": True}, learner={"updates": 3},
    )  # fmt: skip
    return config | {"observations": {"cameras": ["front"], "image_size": [48, 64]}}


@pytest.mark.parametrize("encoding", ["raw", "jpeg", "lossless", "video"])
def test_a_run_learns_from_images_however_they_are_encoded(site: Site, encoding: str) -> None:
    train = site.start("train", "train", site.config(by_sight(encoding)), "--run", site.run, draw=True)
    assert train.ended() == 0, train.tail()
    site.gone()
    check_metrics(site, max_staleness=1)
    last = site.rows()[-1]
    assert last["updates"] == 3 and last["segments_undecodable"] == 0
    told = [row for row in read_metrics(site.run / "metrics.jsonl") if row.get("robot_array_bytes_per_s/left")]
    assert told, "an edge tells it twice a second"
    for row in told:
        less = row["robot_bytes_per_s/left"] / row["robot_array_bytes_per_s/left"]
        assert less < 0.5 if encoding != "raw" else 0.9 < less < 1.1
    found = accounts(site, "left", "right")
    assert found.stored["left"] and found.stored["right"]
    with SegmentStore(site.run / "segments") as store:
        for position, segment in store.scan():
            tensors = layout.parse(bytes(record.peek(store.read_record(position)).tensors)).observations
            assert {tensor.name: tensor.encoding for tensor in tensors}[CAMERA] == encoding
            assert segment.observations[CAMERA].std() > 5, "there is something to be seen"


@pytest.mark.parametrize("encoding", ["jpeg", "lossless", "video"])
def test_what_an_edge_rendered_comes_back(site: Site, encoding: str) -> None:
    config = load_config(site.config(by_sight(encoding)))
    inputs, made = Inputs(config), list[Segment]()
    rollout = BatchRollout(
        build_policy(config, inputs), inputs, cells_of(config)[0], edge="left", arms=2, threads=1, segment_steps=4,
        seed=0, emit=made.extend, options=env_options(config), encodings=config.edges[0].encodings(),
    )  # fmt: skip
    rollout.start(2)
    while rollout.running:
        rollout.advance(0)
    rollout.close()
    assert len(made) == 4
    for segment in made:
        images, back = segment.observations[CAMERA], record.decode(record.encode(segment)).observations[CAMERA]
        error = float(((images.astype(float) - back) ** 2).mean())
        print(f"{encoding}: PSNR {10 * np.log10(255**2 / error) if error else np.inf:.1f} dB")
        assert error == 0 if encoding == "lossless" else error < 255**2 / 10**3.3  # 33 dB
