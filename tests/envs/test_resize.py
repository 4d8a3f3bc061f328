"""Pictures of a real camera at the size that a policy sees."""

import numpy as np
import pytest

from envs.resize import fit


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
