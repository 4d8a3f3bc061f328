"""Everything that a VLA computes stays where its weights are."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from policies.vla import flow_vla
from policies.vla.flow_vla import FlowVLA
from tests.policies.on_a_gpu import pretend, run
from tests.policies.vla.conftest import FEATURES, KINDS


@pytest.mark.parametrize("exploration", ["sde", "noise"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_vla_on_a_gpu_touches_nothing_beside_it(
    make: Callable[..., FlowVLA], kind: str, exploration: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make(kind, exploration=exploration)

    def prompts(texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        shape = (len(texts), 8)
        return torch.zeros(shape, dtype=torch.int64, device=device), torch.ones(shape, dtype=torch.bool, device=device)

    # Words can't be read from tensors that hold nothing, nor states.
    policy.prompts = prompts  # type: ignore[assignment]
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: tensor)
    monkeypatch.setattr(flow_vla, "as_text", lambda rows: ["touch it"] * len(rows))
    monkeypatch.setattr(policy._field, "prompts", lambda words, state: words)
    if kind == "smolvla":  # its vision tower counts patches of an image: not of one that holds nothing

        def embedded(image: Tensor) -> Tensor:
            return torch.empty(len(image), 4, policy._field.feature_dim, device=image.device)

        monkeypatch.setattr(policy.lerobot.model.vlm_with_expert, "embed_image", embedded)
    with FakeTensorMode():
        pretend(policy)
        obs = {key: torch.empty(3, *shape, device="cuda") for key, shape in FEATURES.items()}
        assert {tensor.device.type for tensor in run(policy, obs)} == {"cuda"}
