"""The policy and the algorithm in docs/add-your-own-policy.md learn as they stand there, and run as installed."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from envs import EnvOptions
from policies import registry
from robotlearn.algorithms import registry as algorithms
from robotlearn.algorithms.base import Algorithm
from robotlearn.algorithms.chunks import Episode, join
from robotlearn.algorithms.registry import make_algorithm
from robotlearn.cells import cells_of
from robotlearn.config import Config, load_config
from robotlearn.edge.rollout import BatchRollout
from robotlearn.inputs import Inputs
from robotlearn.learner.start import teach
from robotlearn.metrics import read_metrics
from robotlearn.policy import build_policy
from robotlearn.wire.segment import Segment
from tests.e2e.harness import Site, tiny
from tests.pages import Page

PAGE = Page("docs/add-your-own-policy.md")
CODE, CHECK, ALGORITHM = PAGE.blocks("python")
WHOLE, ALGORITHM_BLOCK = PAGE.blocks("yaml")
POLICY_YAML, ALGORITHM_YAML = {"policy": yaml.safe_load(WHOLE)["policy"]}, yaml.safe_load(ALGORITHM_BLOCK)


@pytest.fixture
def package(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's package, with an algorithm in it too."""
    (project,) = PAGE.blocks("toml")
    files = {"__init__.py": "", "careful.py": CODE, "successes.py": ALGORITHM}
    install(project, {f"my_package/{name}": text for name, text in files.items()})
    for one in (registry, algorithms):
        monkeypatch.setattr(one, "_factories", dict(one._factories))


def test_it_keeps_the_contract() -> None:
    exec(CODE + CHECK, {"__name__": "page"})


def written(folder: Path, *overrides: str, **sections: object) -> Config:
    """A reaching run of a policy of the page's config, small enough for a test."""
    file = folder / "run.yaml"
    base = {
        "seed": 0,
        "robot": "panda",
        "task": "reach",
        "demonstrations": {"episodes": 8},
        "sft": {"steps": 150, "lr": 1e-3},
        "start": {"success_band": None},
        "learner": {"episodes_per_update": 32},
        "edges": [{"name": "batch", "kind": "batch", "arms": 16, "segment_steps": 16}],
    }
    file.write_text(yaml.safe_dump(base | POLICY_YAML | sections))
    return load_config(file, overrides)


def episodes_of(policy: torch.nn.Module, config: Config, seed: int) -> list[Episode]:
    """32 episodes of the policy that explores, as an edge records them."""
    segments: list[Segment] = []
    inputs = Inputs(config)
    (cell,) = cells_of(config)
    rollout = BatchRollout(
        policy, inputs, cell, edge="batch", arms=32, threads=1, segment_steps=32, seed=seed, emit=segments.extend,
        options=EnvOptions(),
    )  # fmt: skip
    rollout.start(32)
    while rollout.running:
        rollout.advance(0)
    rollout.close()
    by_episode: dict[tuple[str, int], list[Segment]] = {}
    for segment in segments:
        by_episode.setdefault((segment.robot, segment.episode), []).append(segment)
    return [join(parts) for parts in by_episode.values()]


def restored(algorithm: Algorithm, config: Config) -> Algorithm:
    """The same algorithm in a later process, as a resumed run makes it."""
    policy = build_policy(config, Inputs(config))
    policy.load_state_dict(algorithm.policy.state_dict())
    again = make_algorithm(config.algorithm.name, policy, config.algorithm, config.seed)
    again.load_state_dict(algorithm.state_dict())
    return again


ALGORITHMS = {"ppo": {"algorithm": {"name": "ppo", "epochs": 2, "critic_warmup": 1}}, "successes": ALGORITHM_YAML}


@pytest.mark.parametrize("section", ALGORITHMS.values(), ids=ALGORITHMS)
def test_it_is_taught_and_reinforced(package: None, tmp_path: Path, section: dict[str, object]) -> None:
    config = written(tmp_path, **section)
    inputs, cells = Inputs(config), cells_of(config)
    policy = build_policy(config, inputs)
    assert type(policy).__name__ == "Careful" and policy.hidden == 128
    taught = teach(policy, config, cells, inputs, lambda phase, share: None)
    assert taught.demonstrations == 8
    algorithm = make_algorithm(config.algorithm.name, policy, config.algorithm, config.seed)
    for version in range(3):
        before = {key: value.clone() for key, value in policy.state_dict().items()}
        again, episodes = restored(algorithm, config), episodes_of(policy, config, seed=version)
        assert any(episode.success[-1] for episode in episodes)
        settled: list[int] = []
        metrics = algorithm.update(episodes, version, lambda settled=settled: settled.append(1))
        assert all(np.isfinite(value) for value in metrics.values())
        changed = any(not torch.equal(value, before[key]) for key, value in policy.state_dict().items())
        assert changed == bool(settled), "no change without leave"
        assert changed or version == 0, "only a critic's first update leaves the policy as it is"
        assert again.update(episodes, version, lambda: None) == metrics, "a resumed run goes on bit by bit"


def test_the_pages_config_is_a_whole_one(package: None, tmp_path: Path) -> None:
    (tmp_path / "careful.yaml").write_text(WHOLE)
    config = load_config(tmp_path / "careful.yaml")
    assert build_policy(config, Inputs(config)).hidden == 128
    load_config(tmp_path / "careful.yaml", [f"algorithm={ALGORITHM_YAML['algorithm']}"])


def test_options_that_it_does_not_have_are_named(package: None, tmp_path: Path) -> None:
    config = written(tmp_path, "algorithm.options.stps=3", **ALGORITHM_YAML)
    policy = build_policy(config, Inputs(config))
    with pytest.raises(algorithms.AlgorithmError, match=r"algorithm 'successes'.* 'stps'"):
        make_algorithm("successes", policy, config.algorithm, 0)
    with pytest.raises(registry.PolicyConfigError, match=r"policy 'careful'.* 'hiden'"):
        build_policy(written(tmp_path, "policy.options.hiden=3"), Inputs(config))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("section", [{}, ALGORITHM_YAML], ids=["ppo", "successes"])
def test_every_process_of_a_run_finds_it(package: None, site: Site, section: dict[str, object]) -> None:
    """The page's commands, with a config so small that it takes a moment."""
    config = tiny(learner={"updates": 3}) | {"algorithm": {"epochs": 1}} | POLICY_YAML | section
    site.config(config, "careful.yaml")
    for command in PAGE.commands():
        done = site.start(command[0], *command, cwd=site.folder)
        assert done.ended() == 0, done.tail()
    rows = read_metrics(site.folder / "runs" / "careful" / "metrics.jsonl")
    assert [row["updates"] for row in rows if "updates" in row] == [1, 2, 3]


def test_the_page_names_the_groups_that_the_code_reads() -> None:
    groups = tomllib.loads(PAGE.blocks("toml")[0])["project"]["entry-points"]
    assert groups.keys() == {registry.GROUP, algorithms.GROUP}
