"""Pictures of a real camera at the size that a policy sees."""

import numpy as np
import pytest
import torch

from envs.resize import fit, shrunk, within


@pytest.mark.parametrize("shape", [(120, 160), (160, 120), (30, 40), (200, 90)])
def test_fit_keeps_the_middle(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    image[:] = np.linspace(0, 255, shape[1])[:, None]
    assert fit(image, shape) is image
    small = fit(image, (32, 32))
    assert small.shape == (32, 32, 3) and small.dtype == np.uint8
    assert abs(float(small.mean()) - 127.5) < 3
    slope = (float(small[0, -1, 0]) - float(small[0, 0, 0])) / 31 * 32
    assert slope == pytest.approx(255 * min(shape) / shape[1], abs=10)


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((480, 640), (512, 512), (384, 512)),
        ((480, 640), (224, 224), (168, 224)),
        ((500, 333), (224, 224), (224, 149)),
        ((480, 640), (480, 320), (240, 320)),
        ((128, 128), (512, 512), (128, 128)),
    ],
)
def test_a_picture_stays_whole_within_the_box(
    size: tuple[int, int], box: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert within(size, box) == expected
    assert within(expected, box) == expected


@pytest.mark.parametrize("size", [(384, 512), (168, 224), (31, 47)])
def test_shrunk_is_torchs_bilinear_interpolation(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)  # in noise every filter shows
    asked = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    theirs = torch.nn.functional.interpolate(asked, size=size, mode="bilinear", align_corners=False)[0]
    ours = shrunk(image, size)
    assert ours.dtype == np.uint8 and ours.shape == (*size, 3)
    np.testing.assert_allclose(ours, theirs.permute(1, 2, 0).numpy(), rtol=0, atol=0.501)
    assert shrunk(image, (480, 640)) is image
