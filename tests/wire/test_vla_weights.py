"""What of a VLA crosses the wire: after the first time, what is learnt and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from policies.vla.flow_vla import FlowVLA
from robotlearn.policy import constants, load_arrays, to_arrays
from tests.policies.vla.conftest import checkpoints, make, offline  # noqa: F401
from tests.wire.rig import learner, weights_client


@pytest.mark.parametrize("train", ["full", "expert", "lora"])
def test_only_what_is_learnt_is_published(make: Callable[..., FlowVLA], tmp_path: Path, train: str) -> None:  # noqa: F811
    there_policy, here = make("smolvla", train=train), make("smolvla", train=train)
    learnt = [p for p in there_policy.parameters() if p.requires_grad]
    share = sum(p.nbytes for p in learnt) / sum(t.nbytes for t in there_policy.state_dict().values())
    assert {"full": share > 0.9, "expert": 0.2 < share < 0.7, "lora": share < 0.2}[train], share
    with learner(tmp_path, chunk_bytes=4096) as rig, weights_client(rig.address) as client:
        held = None
        for version in range(3):
            with torch.no_grad():
                for parameter in learnt:
                    parameter.add_(0.01 * torch.randn_like(parameter))
            before = client.bytes_received
            rig.publisher.publish(version, to_arrays(there_policy), constant=constants(there_policy))
            weights = client.wait(version, 20)
            assert weights is not None
            load_arrays(here, weights.tensors, held)
            held = weights.tensors
            for name, tensor in there_policy.state_dict().items():
                assert torch.equal(here.state_dict()[name], tensor), name
            received = client.bytes_received - before
            if version:
                # Small tensors are padded, and go with a header each.
                assert received < 1.3 * sum(p.nbytes + 256 for p in learnt)
            rig.publisher.settle()
