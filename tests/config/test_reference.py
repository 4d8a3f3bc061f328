"""The reference of all keys: complete, right about the config, and the same as the page in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from robotlearn.config import load_config
from robotlearn.config.load import dump
from robotlearn.config.reference import keys, matching, page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_in_the_docs_is_the_one_that_the_config_makes() -> None:
    assert (DOCS / "config.md").read_text() == page(), "robotlearn config --markdown > docs/config.md"


@pytest.mark.parametrize("name", ["laptop", "smoke", "reach"])
def test_every_key_of_a_config_is_in_it_with_its_default(name: str) -> None:
    known = {key.path: key for key in keys()}

    def walk(data: object, path: str) -> None:
        if isinstance(data, dict):
            for key, value in data.items():
                walk(value, f"{path}.{key}" if path else key)
        elif isinstance(data, list) and data and isinstance(data[0], dict):
            for item in data:
                walk(item, f"{path}.*")
        else:
            assert path in known, path

    walk(yaml.safe_load(dump(load_config(name))), "")


def test_defaults_and_bounds_are_those_of_the_config() -> None:
    known = {(key.section, key.path): key for key in keys()}
    clip = known["algorithm, name ppo", "algorithm.clip"]
    assert (clip.default, clip.takes) == ("0.2", "number above 0, below 1")
    assert known["the run", "seed"].default == ""
    assert known["policy, kind gaussian", "policy.kind"].takes == "gaussian"
    assert known["edges.*.execution", "edges.*.execution.ahead"].default == "2"
    assert len(known) == len(keys()), "no key twice"


def test_a_key_is_found_by_path_by_section_and_by_word() -> None:
    assert [key.path for key in matching("edges.0.arms")] == ["edges.*.arms"]
    assert {key.path for key in matching("sft")} >= {"sft.steps", "sft.lr"}
    assert "learner.max_staleness" in [key.path for key in matching("synchronous")]
    assert matching("xyzzy") == []
