"""How a config says what images are encoded with, and what it is told when it can't be so."""

from __future__ import annotations

import pytest

from robotlearn.config.config import Config
from robotlearn.config.edge import ImagesConfig
from robotlearn.config.load import load_config
from robotlearn.errors import ConfigError
from robotlearn.wire.encodings import Encodings, ImageEncoding

FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def load(*overrides: str) -> Config:
    return load_config("laptop", ["observations.cameras=[front,wrist]", *overrides])


def test_without_a_word_arrays_are_compressed_and_images_are_raw() -> None:
    assert load().edges[0].encodings() == Encodings("zstd", (), ImageEncoding("raw"))


@pytest.mark.parametrize(
    ("images", "front", "wrist"),
    [
        ("jpeg", ImageEncoding("jpeg"), ImageEncoding("jpeg")),
        ("{front: lossless}", ImageEncoding("lossless"), ImageEncoding("raw")),
        ("{wrist: {encoding: video, crf: 30}, default: jpeg}", ImageEncoding("jpeg"), ImageEncoding("video", crf=30)),
        ("{front: {encoding: jpeg, quality: 80}}", ImageEncoding("jpeg", quality=80), ImageEncoding("raw")),
    ],
)
def test_each_camera_has_its_own_or_the_default(images: str, front: ImageEncoding, wrist: ImageEncoding) -> None:
    found = load("algorithm.lossy_images=true", f"edges.0.images={images}").edges[0].encodings()
    assert (found.image(FRONT), found.image(WRIST)) == (front, wrist)


def test_one_camera_can_be_set_on_the_command_line() -> None:
    found = load("edges.0.images.wrist=lossless").edges[0].encodings()
    assert (found.image(FRONT).name, found.image(WRIST).name) == ("raw", "lossless")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "edges.0.images={wirst: lossless}",
            "images.wirst: no camera of observations.cameras, which are front, wrist$",
        ),
        ("edges.0.images=zip", "images.default.encoding: 'zip' is not valid, expected 'raw', 'jpeg', 'lossless' or "),
        (
            "edges.0.images={front: {encoding: video, crf: 60}}",
            "images.front.crf: 60 is not valid, expected at most 51",
        ),
        ("edges.0.images={front: {encoding: video, krf: 6}}", "images.front.krf: unknown key, nearest is 'crf'"),
        ("edges.0.images={front: {encoding: video, quality: 6}}", "front.quality: 6 is not valid with encoding video"),
        ("edges.0.images=7", "images: 7 is not valid, expected a section of keys"),
        (
            "edges.0.images={front: video}",
            "images: video is not valid for front with ppo, .*algorithm.lossy_images=true",
        ),
        ("edges.0.images.default=jpeg", "images: jpeg is not valid for front with ppo"),
    ],
)
def test_a_mistake_is_one_line(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        load(override)
    assert "\n" not in str(error.value)


def test_without_cameras_there_is_nothing_to_encode() -> None:
    with pytest.raises(ConfigError, match=r"images\.front: not valid without observations\.cameras"):
        load_config("laptop", ["edges.0.images.front=lossless"])


def test_imitation_alone_may_lose_something() -> None:
    assert load("learner.updates=0", "edges.0.images=video").edges[0].encodings().other.name == "video"


def test_the_section_holds_what_an_encoding_has() -> None:
    assert tuple(ImagesConfig().model_dump()) == ("encoding", "quality", "crf")
    assert ImageEncoding(*ImagesConfig().model_dump().values()) == ImageEncoding()
