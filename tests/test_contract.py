"""What a run can learn from, beyond what the handshake compares."""

import numpy as np
import pytest

from robotlearn.cells import cells_of
from robotlearn.config import load_config
from robotlearn.contract import Fit, contract
from robotlearn.wire import layout, record
from robotlearn.wire.encodings import IMAGES, Encodings, ImageEncoding
from robotlearn.wire.segment import Group, Segment

CONFIG = load_config("smoke")
AGREED = contract(CONFIG)
WORDS = "reach for the green ball"
FIT = Fit(CONFIG, cells_of(CONFIG))


def segment(
    horizon: int, dtype: str = "f4", path_dim: int = 8, words: str = WORDS, **observations: tuple[int, ...]
) -> Segment:
    """One step that says nothing, with one chunk."""
    steps, n, d = 1, CONFIG.policy.denoising_steps, 8
    cell = "reach/panda."
    shapes = {key.removeprefix(cell): shape for key, shape in AGREED.items() if key.startswith(f"{cell}observation.")}
    flags = {name: np.zeros(steps, bool) for name in ("intervention", "held", "terminated", "truncated", "success")}
    return Segment(
        edge="a", robot="a/arm", embodiment="panda", task=words, episode=1, first_step=0,
        monotonic=np.zeros(steps), wall=np.zeros(steps), reward=np.zeros(steps, np.float32), **flags,
        observations={
            name: np.zeros((steps + 1, *shape), dtype)  # type: ignore[misc]
            for name, shape in {**shapes, **observations}.items()
        },
        action_proposed=np.zeros((steps, d), np.float32), action_executed=np.zeros((steps, d), np.float32),
        chunk_version=np.zeros(1, np.int64), chunk_start=np.zeros(1, np.int32), chunk_first=np.zeros(1, np.int32),
        chunk_executed=np.ones(1, np.int32), chunk_lag=np.zeros(1, np.int32),
        chunk_path=np.zeros((1, n + 1, horizon, path_dim), np.float32), chunk_stochastic=np.zeros((1, n), bool),
        chunk_log_prob=np.zeros((1, n, horizon), np.float32),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (segment(CONFIG.policy.horizon), ""),
        (segment(CONFIG.policy.horizon + 4), "policy.horizon is 8 in the segment and 4 in this run"),
        (segment(CONFIG.policy.horizon, **{"observation.state": (5,)}), "the segment observes"),
        (segment(CONFIG.policy.horizon, **{"observation.more": (5,)}), "the segment observes"),
        (
            segment(CONFIG.policy.horizon, dtype="f8"),
            "observation.environment_state is float64 in the segment and float32",
        ),
        (segment(CONFIG.policy.horizon, dtype="?"), "observation.environment_state is bool in the segment and float32"),
        (segment(CONFIG.policy.horizon, words="sing"), "this run has no robot panda that is told 'sing'"),
        (segment(CONFIG.policy.horizon, path_dim=11), "action_dim is 11 in the segment and 8 in this run"),
    ],
    ids=(
        "its own", "another horizon", "another shape", "another observation", "doubles", "booleans", "other words",
        "another path",
    ),
)
def test_a_segment_of_another_run_is_told_by_its_layout(made: Segment, reason: str) -> None:
    data = record.encode(made, session=1, sequence=0)
    header = record.verify(data)
    assert FIT(header, layout.parse(bytes(header.tensors))).startswith(reason)
    assert bool(FIT(header, layout.parse(bytes(header.tensors)))) == bool(reason)


@pytest.mark.parametrize("how", ["raw", "lossless", "jpeg", "video"])
def test_images_that_lost_something_are_not_for_ppo_unless_it_is_told_so(how: str) -> None:
    key, seen = f"{IMAGES}front", ["observations.cameras=[front]", "observations.image_size=[16,16]"]
    made = segment(CONFIG.policy.horizon)
    made.observations[key] = np.zeros((made.steps + 1, 16, 16, 3), np.uint8)
    made.encodings = Encodings(other=ImageEncoding(how))
    header = record.verify(record.encode(made, session=1, sequence=0))
    found = layout.parse(bytes(header.tensors))

    def reason(*more: str) -> str:
        config = load_config("smoke", [*seen, *more])
        return Fit(config, cells_of(config))(header, found)

    lossy = how in ("jpeg", "video")
    assert (reason() == "") == (not lossy)
    assert not lossy or reason().startswith(f"{key} is encoded as {how}, and this run has no algorithm.lossy_images")
    assert reason("algorithm.lossy_images=true") == reason("learner.updates=0") == ""


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        (None, "algorithm.group is 1 in the segment and 8 in this run"),
        (Group(3, 1, 4), "algorithm.group is 4 in the segment and 8 in this run"),
        (Group(3, 1, 8), ""),
    ],
    ids=str,
)
def test_grpo_takes_whole_groups_of_its_own_size(group: Group | None, reason: str) -> None:
    made = segment(CONFIG.policy.horizon)
    made.group = group
    header = record.verify(record.encode(made, session=1, sequence=0))
    found = layout.parse(bytes(header.tensors))
    grouped = load_config("smoke", ["algorithm={name: grpo, group: 8}", "edges=[{name: a, kind: batch, arms: 8}]"])
    assert Fit(grouped, cells_of(grouped))(header, found) == reason
    assert FIT(header, found) == "", "who learns from episodes alone takes them all"
