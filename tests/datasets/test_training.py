"""LeRobot's own ACT learns from what was exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robotlearn.datasets.export import Wanted, export
from tests.datasets.runs import make_run


@pytest.mark.slow
@pytest.mark.renders
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cameras", [(), ("front",)], ids=["state", "camera"])
def test_act_of_lerobot_imitates_an_exported_run(tmp_path: Path, cameras: tuple[str, ...]) -> None:
    pytest.importorskip("lerobot")
    run = make_run(tmp_path / "run", cameras=cameras)
    export(run, str(tmp_path / "dataset"), Wanted())
    import torch
    from lerobot.configs import FeatureType
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.utils.feature_utils import dataset_to_policy_features

    horizon = 4
    times = {"action": [step / 10 for step in range(horizon)]}
    dataset = LeRobotDataset("dataset", root=tmp_path / "dataset", delta_timestamps=times)
    found = dataset_to_policy_features(dataset.meta.features)
    wanted = {key: feature for key, feature in found.items() if feature.type is FeatureType.ACTION}
    torch.manual_seed(0)
    config = ACTConfig(
        input_features={key: feature for key, feature in found.items() if key not in wanted},
        output_features=wanted,
        chunk_size=horizon,
        n_action_steps=horizon,
        pretrained_backbone_weights=None,
        dim_model=32,
        n_heads=2,
        dim_feedforward=64,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        device="cpu",
    )
    policy = ACTPolicy(config)
    prepare, _ = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    batches = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
    losses: list[float] = []
    policy.train()
    while len(losses) < 100:
        for batch in batches:
            loss, _ = policy.forward(prepare(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10]), losses
