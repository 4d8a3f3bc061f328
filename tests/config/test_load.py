"""What a user may write in a config and on the command line, and the one line that each mistake gets."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from hal.data import data_path
from robotlearn.config import BatchEdgeConfig, Config, PacedEdgeConfig, dump, load_config
from robotlearn.errors import ConfigError

MINIMAL = """\
seed: 3
robot: panda
task: reach
learner:
  updates: 7
edges:
  - name: left
    kind: batch
    arms: 8
  - name: station
    kind: paced
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(MINIMAL, encoding="utf-8")
    return file


def test_what_the_file_leaves_out_has_defaults(minimal: Path) -> None:
    config = load_config(minimal)
    assert (config.seed, config.robot, config.task, config.learner.updates) == (3, ("panda",), ("reach",), 7)
    assert config.learner.max_staleness == 1
    left, station = config.edges
    assert isinstance(left, BatchEdgeConfig) and left.arms == 8
    assert isinstance(station, PacedEdgeConfig) and station.execution.ahead == 2
    assert config.edge("station") is station
    assert config.edge("nobody") is None


def test_a_config_is_read_only(minimal: Path) -> None:
    config = load_config(minimal)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "read"),
    [
        pytest.param("seed=11", lambda c: c.seed == 11, id="whole-number"),
        pytest.param("sft.lr=3e-4", lambda c: c.sft.lr == 3e-4, id="number-without-a-dot"),
        pytest.param("sft.lr=1", lambda c: c.sft.lr == 1.0, id="whole-number-for-a-number"),
        pytest.param("edges.0.arms=64", lambda c: c.edges[0].arms == 64, id="item-of-a-list"),
        pytest.param("learner.max_staleness=inf", lambda c: c.learner.max_staleness == math.inf, id="inf"),
        pytest.param("learner.max_staleness=.inf", lambda c: c.learner.max_staleness == math.inf, id="yaml-inf"),
        pytest.param("learner.max_staleness=0", lambda c: c.learner.max_staleness == 0, id="synchronous"),
        pytest.param("policy.hidden=[64, 32]", lambda c: c.policy.hidden == (64, 32), id="a-list"),
        pytest.param("start.success_band=null", lambda c: c.start.success_band is None, id="null"),
        pytest.param("start.episodes=5", lambda c: c.start.episodes == 5, id="section-that-the-file-lacks"),
        pytest.param("learner.bind=localhost:5555", lambda c: c.learner.bind == "tcp://localhost:5555", id="address"),
        pytest.param("learner.insecure_public=true", lambda c: c.learner.insecure_public, id="true"),
        pytest.param("edges.0.person={kind: scripted}", lambda c: c.edges[0].person.until == "headway", id="person"),
        pytest.param("edges.1.spool={sync: power}", lambda c: c.edges[1].spool.sync == "power", id="a-section"),
    ],
)
def test_override(minimal: Path, override: str, read) -> None:
    assert read(load_config(minimal, [override]))


def test_the_last_of_two_overrides_counts(minimal: Path) -> None:
    assert load_config(minimal, ["seed=5", "seed=6"]).seed == 6


def test_imitation_alone_needs_no_edge(minimal: Path) -> None:
    assert load_config(minimal, ["edges=[]", "learner.updates=0"]).edges == ()
    with pytest.raises(ConfigError, match=r"edges: \[\] is not valid with 7 learner.updates, expected at"):
        load_config(minimal, ["edges=[]"])


MISTAKES = [
    ("updates: 7", "updtes: 7", ":5: learner.updtes: unknown key, nearest is 'updates'"),
    ("learner:", "lerner:", ":4: lerner: unknown key, nearest is 'learner'"),
    ("arms: 8", "qqq: 8", ":9: edges.0.qqq: unknown key, known are arms, arrays, device, explore, images, kind, "),
    ("    kind: paced", "    kind: paced\n    arms: 2", ":12: edges.1.arms: unknown key"),
    ("updates: 7", "updates: ten", ":5: learner.updates: 'ten' is not valid, expected a whole number"),
    ("updates: 7", "updates: 7.5", ":5: learner.updates: 7.5 is not valid, expected a whole number"),
    ("updates: 7", "updates: true", ":5: learner.updates: true is not valid, expected a whole number"),
    ("updates: 7", "updates: '7'", ":5: learner.updates: '7' is not valid, expected a whole number"),
    ("updates: 7", "updates: -1", ":5: learner.updates: -1 is not valid, expected at least 0"),
    ("task: reach", "task: [reach, lift]", "observations.instruction: false is not valid with 2 tasks, expected true"),
    ("task: reach", "task: [reach, 3]", ":3: task: ['reach', 3] is not valid, expected a name or a list of names"),
    ("robot: panda", "robot: [panda, panda]", ":2: robot: ['panda', 'panda'] is not valid, expected each name once"),
    ("robot: panda", "robot: [panda, other]", "edges.1.robot: null is not valid, expected one name"),
    ("arms: 8", "arms: 8\n    robot: other", ":10: edges.0.robot: 'other' is not valid, expected of the run's own"),
    ("task: reach", "task: reach\npolicy: {kind: gaussian, depth: 2}", ":4: policy.depth: unknown key, known are"),
    ("task: reach", "task: reach\npolicy: {kind: flow_transformer, width: 65}", ":4: policy.width: 65 is not valid"),
    ("task: reach", "task: reach\npolicy: {kind: gausian, hidden: [8]}", ":4: policy.kind: 'gausian' is not known, "),
    ("task: reach", "task: reach\npolicy: {noise_range: [2, 1]}", ":4: policy.noise_range: [2.0, 1.0] is not valid"),
    ("task: reach", "task: reach\nalgorithm: {clip: 2}", ":4: algorithm.clip: 2 is not valid, expected less than 1"),
    ("task: reach", "task: reach\nobservations: {environment_state: false}", "cameras: [] is not valid without"),
    ("task: reach", "task: reach\ndemonstrations: {episodes: 0}", "is not valid without demonstrations, expected null"),
    ("updates: 7", "stop_success: 1.5", ":5: learner.stop_success: 1.5 is not valid, expected at most 1"),
    ("updates: 7", "max_staleness: -1", ":5: learner.max_staleness: -1 is not valid, expected a whole number of at"),
    ("updates: 7", "max_staleness: 0.5", ":5: learner.max_staleness: 0.5 is not valid, expected a whole number of at"),
    ("updates: 7", "bind: nowhere", ":5: learner.bind: 'nowhere' is not valid, expected an address tcp://HOST:PORT"),
    ("updates: 7", "bind: tcp://127.0.0.1:70000", "expected an address tcp://HOST:PORT with a port from 1 to 65535"),
    ("updates: 7", "bind: tcp://*:5555", ":5: learner.bind: 'tcp://*:5555' can be reached from other machines"),
    ("seed: 3", "seed: -3", ":1: seed: -3 is not valid, expected at least 0"),
    (
        "seed: 3",
        "seed: 3\nobservations: {image_size: [32, 32]}",
        ":2: observations.image_size: [32, 32] is not valid without cameras, expected cameras such as [wrist], or the "
        "default, [64, 64]",
    ),
    ("seed: 3", "seed: 3\nobservations: {image_every: 2}", ":2: observations.image_every: 2 is not valid without"),
    ("seed: 3", "seed: 3\nrandomization: {mass: 1e300}", "mass: 1e+300 is not valid, expected at most 10"),
    ("seed: 3", "seed: 3\nrandomization: {gain: -1}", ":2: randomization.gain: -1 is not valid, expected at least 0"),
    ("seed: 3", "seed: 3\nrandomization: {sensor_noise: 2}", "sensor_noise: 2 is not valid, expected at most 1"),
    ("seed: 3\n", "", ": seed: missing (Every random number of the run follows from it)"),
    ("task: reach", "task: ''", ":3: task: '' is not valid, expected a name or a list of names"),
    (
        "task: reach",
        "task: reach\npolicy: {stochastic_steps: two}",
        ":4: policy.stochastic_steps: 'two' is not valid, expected 'all'",
    ),
    (
        "task: reach",
        "task: reach\npolicy: {hidden: []}",
        ":4: policy.hidden: [] is not valid, expected at least 1 in the list",
    ),
    ("task: reach", "task: reach\nsft: {lr: .inf}", ":4: sft.lr: inf is not valid, expected a finite number"),
    ("task: reach", "task: reach\nsft: {lr: .nan}", ":4: sft.lr: nan is not valid, expected"),
    ("task: reach", "task: reach\nsft: null", ":4: sft: null is not valid, expected a section of keys"),
    (
        "task: reach",
        "task: reach\nstart: {success_band: [0.6, 0.3]}",
        ":4: start.success_band: [0.6, 0.3] is not valid",
    ),
    ("task: reach", "task: reach\nstart: {success_band: [0.6]}", "expected at least 2 in the list"),
    ("kind: batch", "kind: btch", ":8: edges.0.kind: 'btch' is not valid, expected one of 'batch', 'paced'"),
    ("    kind: batch\n", "", ": edges.0.kind: missing (batch: many simulated arms"),
    ("name: station", "name: left", ":10: edges.1.name: 'left' is the name of edges.0 too"),
    ("name: station", "name: a/b", ":10: edges.1.name: 'a/b' is not valid, expected text that matches"),
    ("arms: 8", "segment_steps: 2", ":9: edges.0.segment_steps: 2 is not valid, expected at least policy.horizon (4)"),
    (
        "kind: paced",
        "kind: paced\n    execution: {ahead: 4}",
        ":12: edges.1.execution.ahead: 4 is not valid, expected less than policy.horizon",
    ),
    (
        "kind: paced",
        "kind: paced\n    execution: {way: rtc, ahead: 3}",
        ":12: edges.1.execution.way: 'rtc' is not valid with explore true, expected explore false",
    ),
    (
        "kind: paced",
        "kind: paced\n    explore: false\n    execution: {way: prefix, ahead: 3}",
        ":13: edges.1.execution.way: 'prefix' is not valid with this policy, expected policy.kind flow_transformer or",
    ),
    (
        "kind: paced",
        "kind: paced\n    execution: {way: hold, decay: 0.5}",
        ":12: edges.1.execution.decay: 0.5 is not valid with way hold, expected it with overlap only",
    ),
    (
        "kind: paced",
        "kind: paced\n    execution: {way: wait, ahead: 1}",
        ":12: edges.1.execution.ahead: 1 is not valid with way wait",
    ),
    (
        "kind: paced",
        "kind: paced\n    explore: false\n    execution: {way: vlash, ahead: 0}",
        ":13: edges.1.execution.ahead: 0 is not valid with way vlash, expected at least 1",
    ),
    ("kind: paced", "kind: paced\n    ahead: 2", ":12: edges.1.ahead: unknown key"),
    ("seed: 3", "seed: 3\nseed: 4", ":2: seed: stands twice, first on line 1"),
    ("kind: paced", "kind: paced\n    scene_reset: key", ":12: edges.1.scene_reset: key is not valid without person"),
    (
        "kind: paced",
        "kind: paced\n    person: {device: leader, options: {enable: {device: /dev/x}}}\n    scene_reset: key",
        ":13: edges.1.scene_reset: key is not valid with a pedal, which has no Enter",
    ),
    ("arms: 8", "person: {device: keyboard}", ":9: edges.0.person.device: unknown key, known are corrections, "),
    ("arms: 8", "person: {patience: 5}", ": edges.0.person.kind: missing (scripted: "),
    (
        "arms: 8",
        "person: {kind: scripted, until: end, steady: 5}",
        ":9: edges.0.person.steady: 5 is not valid with until: end, expected it with headway only",
    ),
    ("arms: 8", "arms: 8\n    arms: 9", ":10: edges.0.arms: stands twice, first on line 9"),
    ("seed: 3", "seed: [3", ": not YAML: "),
    ("seed: 3", "3: seed", ":1: a key must be text, not 3"),
    ("seed: 3", "seed: !!python/object/apply:os.getpid []", ": not YAML: could not determine a constructor"),
]


@pytest.mark.parametrize(("right", "wrong", "said"), MISTAKES, ids=[wrong or right for right, wrong, _ in MISTAKES])
def test_a_mistake_in_the_file_is_one_line_with_file_key_value_and_expectation(
    minimal: Path, right: str, wrong: str, said: str
) -> None:
    assert right in MINIMAL
    minimal.write_text(MINIMAL.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_config(minimal)
    line = str(raised.value)
    assert line.startswith(str(minimal)) and said in line and "\n" not in line


@pytest.mark.parametrize(
    ("override", "said"),
    [
        pytest.param("learner.updtes=3", "learner.updtes: unknown key, nearest is 'updates'", id="unknown-key"),
        pytest.param("lerner.updates=3", "lerner: unknown key, nearest is 'learner'", id="unknown-section"),
        pytest.param("learner.updates=x", "learner.updates: 'x' is not valid, expected a whole number", id="type"),
        pytest.param("edges.0.arms=0", "edges.0.arms: 0 is not valid, expected more than 0", id="value"),
        pytest.param("edges.0.spool={max_bytes: 10}", "10 is not valid, expected at least 1048576", id="whole-bound"),
        pytest.param("edges.2.arms=1", "edges: has no item '2', expected 0 to 1", id="index"),
        pytest.param("edges.left.arms=1", "edges: has no item 'left', expected 0 to 1", id="name-for-an-index"),
        pytest.param("seed.x=1", "seed: is 3, which has no key 'x'", id="key-of-a-number"),
        pytest.param("seed", "expected key=value", id="no-value"),
        pytest.param("=3", "expected key=value", id="no-key"),
        pytest.param("seed={", "not YAML", id="not-yaml"),
        pytest.param("seed=", "seed: null is not valid, expected a whole number", id="empty"),
    ],
)
def test_a_mistake_in_an_override_names_the_override(minimal: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(minimal, ["edges.1.execution.ahead=1", override])
    line = str(raised.value)
    assert line.startswith(f"override '{override}'") and said in line and "\n" not in line


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        pytest.param(
            ["policy.kind=flow_transfomer"],
            "override 'policy.kind=flow_transfomer': policy.kind: 'flow_transfomer' is not known, nearest is "
            "'flow_transformer'",
            id="typo",
        ),
        pytest.param(
            ["policy.kind=flow_transformer"],
            "override 'policy.kind=flow_transformer': policy.hidden: what the file says for kind flow_mlp, "
            "flow_transformer has no such key; 'policy={kind: flow_transformer}' starts the section anew",
            id="other-kind",
        ),
        pytest.param(
            ["policy.kind=gaussian", "policy.depth=2"],
            "override 'policy.kind=gaussian': policy.denoising_steps, policy.noise_level, policy.deterministic_last: "
            "what the file says for kind flow_mlp, gaussian has no such key; 'policy={kind: gaussian}' starts",
            id="several-keys",
        ),
        pytest.param(
            ["policy={kind: gaussian}", "policy.depth=2"],
            "override 'policy.depth=2': policy.depth: unknown key, known are",
            id="section-anew",
        ),
        pytest.param(
            ["algorithm.name=pp"],
            "override 'algorithm.name=pp': algorithm.name: 'pp' is not known, nearest is 'ppo'",
            id="algorithm",
        ),
    ],
)
def test_a_kind_that_the_files_keys_are_not_of_is_told_before_the_keys(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config("laptop", overrides)
    assert str(raised.value).startswith(said)
    load_config("laptop", ["policy={kind: flow_transformer}"])


def test_several_mistakes_are_counted_and_the_unknown_key_is_told(minimal: Path) -> None:
    minimal.write_text(MINIMAL.replace("seed:", "sed:").replace("arms: 8", "arms: x"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r":1: sed: unknown key, nearest is 'seed' \(and 2 more mistakes\)$"):
        load_config(minimal)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("laptp", "no such file and no shipped config, nearest is 'laptop'", id="near"),
        pytest.param("zzz", "known are act, arms, ", id="not-near"),
        pytest.param("elsewhere/laptop.yaml", "'laptop' alone is a shipped config", id="wrong-folder"),
        pytest.param(".", "is a folder", id="folder"),
    ],
)
def test_a_config_that_is_not_there(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "expected keys and values", id="empty"),
        pytest.param(b"- 1\n", "expected keys and values", id="list"),
        pytest.param(b"\xff\xfe\x00", "not UTF-8", id="binary"),
        pytest.param(b"a: \x00\n", "not YAML", id="control-characters"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_config(file)


def test_a_relative_robot_is_found_from_the_file_and_an_overridden_one_from_the_working_directory(
    minimal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minimal.write_text(MINIMAL.replace("robot: panda", "robot: arms/mine.yaml"), encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_config(minimal).robot == (str(tmp_path / "arms" / "mine.yaml"),)
    assert load_config(minimal, ["robot=./other.yaml"]).robot == (str(elsewhere / "other.yaml"),)


@pytest.mark.parametrize("name", sorted(file.stem for file in data_path("configs").glob("*.yaml")))
def test_a_shipped_config_loads_by_name_and_its_dump_reads_back_equal(name: str, tmp_path: Path) -> None:
    config = load_config(name, ["learner.max_staleness=inf"])
    copy = tmp_path / "config.yaml"
    copy.write_text(dump(config), encoding="utf-8")
    assert load_config(copy) == config


def test_a_shipped_config_is_found_beside_a_run_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "smoke").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config("smoke").task == ("reach",)


def test_text_that_looks_like_a_number_survives_a_dump(minimal: Path, tmp_path: Path) -> None:
    config = load_config(minimal, ["task='3e-4'", "robot='inf'", "edges.0.name='012'"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(config), encoding="utf-8")
    assert load_config(copy) == config


def test_the_contract_names_keys_of_the_config(minimal: Path) -> None:
    config = load_config(minimal)
    for key, value in config.contract().items():
        here: object = config
        for part in key.split("."):
            here = getattr(here, part)
        assert value == (", ".join(here) if key == "task" else repr(here) if isinstance(here, tuple) else here), key
    assert load_config(minimal, ["policy.noise_level=0.4"]).contract() != config.contract()
    assert load_config(minimal, ["robot=other", "edges.0.arms=4"]).contract() == config.contract()


def test_every_key_is_described() -> None:
    def models(schema: dict) -> list[dict]:
        return [schema, *schema.get("$defs", {}).values()]

    undescribed = [
        f"{model['title']}.{key}"
        for model in models(Config.model_json_schema())
        for key, field in model["properties"].items()
        if not field.get("description", "").endswith(".")
    ]
    assert undescribed == []


def test_loading_a_config_imports_no_torch() -> None:
    code = "import sys; from robotlearn.config import load_config; load_config('laptop'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["edges.0={name: left, kind: paced}"],
            "edges.0.kind: 'paced' is not valid with grpo, expected batch: only a simulation can begin in the same",
        ),
        (
            ["edges.1.arms=12"],
            "edges.1.arms: 12 is not valid with grpo, expected a multiple of algorithm.group (8), at least 8",
        ),
        (
            ["task=[reach,push]", "observations.instruction=true", "edges.0.arms=8"],
            "edges.0.arms: 8 is not valid with grpo, expected a multiple of algorithm.group (8), at least 16",
        ),
        (["edges.0.person={kind: scripted}"], "edges.0.person: not valid with grpo, expected null: what a person did"),
        (
            ["learner.episodes_per_update=20"],
            "learner.episodes_per_update: 20 is not valid with grpo, expected a multiple of algorithm.group (8)",
        ),
        (["algorithm.group=1"], "algorithm.group: 1 is not valid, expected at least 2"),
        (["algorithm.critic_lr=1e-3"], "algorithm.critic_lr: unknown key"),
        (["algorithm.gae_lambda=0.9"], "algorithm.gae_lambda: unknown key"),
        (["replay.batch_size=4"], "not valid with grpo, which learns from each episode once"),
        (
            ["observations.cameras=[wrist]", "edges.0.images=jpeg"],
            "edges.0.images: jpeg is not valid for wrist with grpo, which computes probabilities anew",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_groups_need_is_said_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as failure:
        load_config("reach-grpo", overrides)
    assert said in str(failure.value) and "\n" not in str(failure.value)


def test_only_grpo_has_groups_and_agrees_on_their_size() -> None:
    grouped = load_config("reach-grpo")
    assert grouped.group == grouped.contract()["algorithm.group"] == 8
    assert load_config("reach").group == 1 and "algorithm.group" not in load_config("reach").contract()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        pytest.param(
            ["policy={kind: act}"],
            "policy.kind: 'act' is not valid with ppo: its chunks have no probability. It is for imitation: sft alone "
            "(learner.updates=0), or algorithm.name=hgdagger",
            id="ppo-with-act",
        ),
        pytest.param(["policy={kind: diffusion}", "algorithm={name: sac}"], "not valid with sac: its chunks", id="sac"),
        pytest.param(
            ["policy={kind: smolvla, pretrained: a/b}", "robot=[panda, ur5e]"],
            "robot: ['panda', 'ur5e'] is not valid with policy.kind smolvla, expected one",
            id="two-robots",
        ),
        pytest.param(
            ["policy={kind: smolvla, pretrained: a/b}", "algorithm.value_image_encoder=resnet18"],
            "algorithm.value_image_encoder: 'resnet18' is not valid with policy.kind smolvla, expected the default",
            id="a-critic-with-eyes",
        ),
        pytest.param(
            ["policy={kind: pi0, pretrained: a/b}", "policy.widht=7"], "policy.widht: unknown key, nearest is 'width'",
            id="misspelt",
        ),
        pytest.param(
            ["policy={kind: pi0, pretrained: a/b}", "policy.train=lor"],
            "policy.train: 'lor' is not valid, expected 'full', 'expert' or 'lora'",
            id="a-value",
        ),
        pytest.param(
            ["policy={kind: smolvla, pretrained: a/b, horizon: 4, max_delay: 4}"],
            "policy.max_delay: 4 is not valid, expected less than horizon (4)",
            id="nothing-to-learn",
        ),
        pytest.param(
            ["policy={kind: act, pretrained: a/b, dim_model: 64}", "learner.updates=0"],
            "policy.dim_model: 64 is not valid with pretrained, whose own holds",
            id="a-checkpoints-size",
        ),
        pytest.param(
            ["policy={kind: act, statistics: checkpoint}", "learner.updates=0"],
            "policy.statistics: 'checkpoint' is not valid without pretrained",
            id="statistics-of-no-checkpoint",
        ),
        pytest.param(
            ["policy={kind: act, dim_model: 20}", "learner.updates=0"], "an even multiple of n_heads", id="heads"
        ),
        pytest.param(
            ["policy={kind: diffusion, horizon: 12}", "learner.updates=0"], "expected a multiple of 8", id="halvings"
        ),
        pytest.param(
            ["policy={kind: diffusion, kernel_size: 4}", "learner.updates=0"], "expected an odd number", id="kernel"
        ),
        pytest.param(
            ["policy={kind: diffusion, n_groups: 7}", "learner.updates=0"], "expected a divisor of 512", id="groups"
        ),
        pytest.param(
            ["policy={kind: diffusion, num_inference_steps: 101}", "learner.updates=0"], "at most num_train", id="steps"
        ),
    ],
)
def test_what_lerobots_policies_can_not_be(minimal: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(minimal, overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_additions_of_low_rank_only_where_they_are_learnt() -> None:
    assert load_config("pi0", ["policy.train=expert"]).policy.train == "expert"
    assert load_config("pi0", ["policy.lora.rank=4"]).policy.lora.rank == 4
    with pytest.raises(ConfigError, match=r"policy\.lora: not valid with train expert, expected it with lora only"):
        load_config("pi0", ["policy.train=expert", "policy.lora.rank=4"])


def test_imitation_with_lerobots_policies(minimal: Path) -> None:
    fits = ["edges.0.segment_steps=128", "edges.1.segment_steps=128"]
    corrects = ["algorithm={name: hgdagger}", "edges.0.person={kind: scripted}"]
    for kind in ("act", "diffusion"):
        config = load_config(minimal, [f"policy={{kind: {kind}}}", "learner.updates=0", *fits])
        dumped = [f"policy={config.policy.model_dump_json()}", "learner.updates=0", *fits]
        assert load_config(minimal, dumped) == config
        assert load_config(minimal, [f"policy={{kind: {kind}}}", *corrects, *fits]).policy.path_steps == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["edges.1.execution={ahead: 1}"], "edges.1.execution: not that of left, with which it shares"),
        (["edges.1.explore=false"], "edges.1.explore: not that of left"),
        (["learner.approval={}"], "edges.0.server: 'both' is not valid with learner.approval"),
        (
            ["task=[reach,lift]", "observations.instruction=true", "edges.0.task=reach", "edges.1.task=lift"],
            "edges.1.task: not that of left",
        ),
    ],
    ids=["execution", "explore", "approval", "task"],
)
def test_who_shares_a_policy_server_is_alike(minimal: Path, overrides: list[str], said: str) -> None:
    edges = "edges=[{name: left, kind: paced, server: both}, {name: right, kind: paced, server: both}]"
    assert [edge.server for edge in load_config(minimal, [edges]).edges] == ["both", "both"]
    with pytest.raises(ConfigError) as caught:
        load_config(minimal, [edges, *overrides])
    assert said in str(caught.value) and "\n" not in str(caught.value)
