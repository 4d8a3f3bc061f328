"""The command line: what its user got wrong is one line and exit status 2, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import zmq

from hal import load_spec
from robotlearn import checkpoint, cli, gl
from robotlearn.checkpoint import Checkpoint
from robotlearn.config import dump, load_config
from robotlearn.contract import contract
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder
from tests.fakes import write_spec


class Said(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Said]

SMALL = ["policy.hidden=[8]"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command line in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path / "runtime"))  # no robot of another test

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["robotlearn", *map(str, arguments)])
        # Signal handlers belong to the test runner.
        monkeypatch.setattr("signal.signal", lambda *_: None)
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        return Said(status, *capfd.readouterr())

    return run


def assert_one_line(said: Said, *parts: str) -> None:
    assert said.status == 2, said
    assert said.err.startswith("robotlearn: ") and said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err + said.out
    for part in parts:
        assert part in said.err


CONFIG_MISTAKES = {
    "a wrong key": (["learner.update=3"], "learner.update: unknown key, nearest is 'updates'"),
    "a wrong type": (["learner.updates=many"], "learner.updates: 'many' is not valid, expected a whole number"),
    "a wrong value": (["learner.updates=-1"], "learner.updates: -1 is not valid, expected at least 0"),
    "no key at all": (["updates"], "expected key=value"),
    "no such edge": (["edges.7.arms=3"], "edges: has no item '7', expected 0 to 1"),
    "a task that there is not": (["task=raech"], "no task 'raech'; did you mean 'reach'?"),
    "a robot that there is not": (["robot=pando"], "unknown robot model 'pando'"),
    "a public address": (["learner.bind=tcp://0.0.0.0:1234"], "can be reached from other machines"),
    "no address": (["learner.bind=somewhere"], "expected an address tcp://HOST:PORT"),
}


@pytest.mark.parametrize("mistake", CONFIG_MISTAKES, ids=lambda name: name.replace(" ", "_"))
@pytest.mark.parametrize("command", ["learner", "edge"])
def test_a_mistake_in_the_config(run: Run, command: str, mistake: str, tmp_path: Path) -> None:
    overrides, expected = CONFIG_MISTAKES[mistake]
    more = (
        ["--run", tmp_path / "run"] if command == "learner" else ["--learner", "tcp://127.0.0.1:9", "--name", "batch"]
    )
    assert_one_line(run(command, "smoke", *overrides, *more), expected)
    assert not (tmp_path / "run").exists(), "what could not begin leaves nothing"


@pytest.mark.parametrize("mistake", ["a wrong key", "a wrong value"], ids=lambda name: name.replace(" ", "_"))
def test_a_mistake_in_the_config_of_train(run: Run, mistake: str, tmp_path: Path) -> None:
    overrides, expected = CONFIG_MISTAKES[mistake]
    assert_one_line(run("train", "smoke", *overrides, "--run", tmp_path / "run"), expected)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "seed: 0\nrobot: panda\ntask: reach\nlearner:\n  bindd: x\nedges: [{name: a, kind: batch}]",
            ":5: learner.bindd",
        ),
        ("robot: panda\ntask: reach\nedges: [{name: a, kind: batch}]", "seed: missing"),
        ("seed: [", "not YAML"),
        ("", "expected keys and values"),
    ],
)
def test_a_mistake_in_a_file_names_file_and_line(run: Run, tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert_one_line(run("learner", path), str(path), expected)


def test_a_config_that_there_is_not_is_told_with_the_nearest(run: Run) -> None:
    assert_one_line(run("learner", "labtop"), "labtop: no such file and no shipped config, nearest is 'laptop'")


def test_a_spec_that_makes_no_sense(run: Run, tmp_path: Path) -> None:
    good = load_spec("panda")
    import yaml

    content = good.model_dump(mode="json")
    content["joints"][2]["lower"] = 9.0
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(content))
    for command in (["learner", "smoke", f"robot={path}"], ["edge", "smoke", f"robot={path}", "--name", "batch",
                    "--learner", "tcp://127.0.0.1:9"]):  # fmt: skip
        assert_one_line(run(*command), str(path), "joints.2")
    assert not list((tmp_path / "runs").glob("*/config.yaml"))


def test_a_driver_that_there_is_not_is_told_before_anything_starts(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    write_spec(path, load_spec("panda"), driver="mujco")
    said = run("train", "smoke", f"robot={path}", "--run", tmp_path / "run")
    assert_one_line(said, "unknown driver 'mujco': did you mean 'mujoco'?")
    assert not (tmp_path / "run").exists()


def test_a_port_in_use_and_then_the_same_command_again(run: Run, tmp_path: Path) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    command = ["learner", "smoke", f"learner.bind=tcp://127.0.0.1:{port}", "--run", tmp_path / "run"]
    try:
        for _ in range(2):  # the folder of a run that could not begin is not in the way
            assert_one_line(run(*command), f"127.0.0.1:{port}", "in use")
    finally:
        socket.close()
        context.term()


def make_run(path: Path, *overrides: str, foreign: str | None = None) -> RunFolder:
    """A run folder with a config and, unless `foreign` is "", one checkpoint (of a run with the override `foreign`)."""
    config = load_config("smoke", [*SMALL, *overrides])
    folder = RunFolder.create(path, dump(config), "id")
    if foreign != "":
        other = load_config("smoke", [*SMALL, foreign]) if foreign else config
        policy = build_policy(other, Inputs(other))
        checkpoint.save(
            Checkpoint(3, policy.state_dict(), {"x": torch.zeros(1)}, {}, dict(contract(other))),
            folder.checkpoints,
        )
    return folder


def test_eval_measures_the_newest_checkpoint(run: Run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "episode_steps=4")
    said = run("eval", folder.path, "--episodes", 3, "--seed", 5)
    assert said.status == 0 and said.err == ""
    assert said.out.startswith("version 3: success 0.0% [0.0%, 56.1%] (0 of 3), return 0.000, length 4.0 steps")
    outs = [
        run("eval", path, "--episodes", 3, "--seed", 5, "--json").out
        for path in (folder.path, folder.checkpoints / "000003")
    ]
    found = json.loads(outs[0])
    assert outs[0] == outs[1]
    assert found["version"] == 3 and found["episodes"] == 3 and found["mean_steps"] == 4.0
    assert {"success", "low", "high", "mean_return", "successes"} <= found.keys()


def test_eval_of_what_is_no_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line(run("eval", tmp_path / "nowhere"), "there is no such run folder or checkpoint")
    assert_one_line(run("eval", tmp_path / "empty"), "is not a run folder")


def test_eval_says_why_there_are_more_episodes_than_asked(run: Run, tmp_path: Path) -> None:
    several = ["task=[reach,lift]", "observations.instruction=true", "edges.0.task=reach", "episode_steps=4"]
    said = run("eval", make_run(tmp_path / "run", *several).path, "--episodes", 1)
    assert said.err == "--episodes 1: there will be 2, one for each robot and task\n" and "(0 of 2)" in said.out


SUITE_MISTAKES = {
    "another suite": (["--suite", "robustness"], "--suite robustness: there is only one, 'generalisation'"),
    "a picture of no suite": (["--out", "x.png"], "--out x.png: only with --suite"),
    "no picture": (["--suite", "generalisation", "--out", "x.pdf"], "--out x.pdf: not a .png"),
    "a film": (["--suite", "generalisation", "--video", "x.mp4"], "--video x.mp4: not with --suite"),
    "no language task": (["--suite", "generalisation"], "--suite generalisation: reach: no language task with splits"),
}


@pytest.mark.parametrize("mistake", SUITE_MISTAKES, ids=lambda name: name.replace(" ", "_"))
def test_a_suite_that_can_not_be_run(run: Run, tmp_path: Path, mistake: str) -> None:
    arguments, words = SUITE_MISTAKES[mistake]
    folder = make_run(tmp_path / "run")
    assert_one_line(run("eval", folder.path, *arguments), words)
    assert not list(tmp_path.rglob("*.png"))


def make_language_run(path: Path) -> RunFolder:
    folder = make_run(path, "task=touch", "observations.instruction=true", "episode_steps=2", foreign="")
    config = load_config(folder.config)
    policy = build_policy(config, Inputs(config))
    checkpoint.save(Checkpoint(3, policy.state_dict(), contract=dict(contract(config))), folder.checkpoints)
    return folder


def test_eval_of_a_language_task_tells_of_each_instruction(run: Run, tmp_path: Path) -> None:
    folder = make_language_run(tmp_path / "run")
    said = run("eval", folder.path, "--episodes", 30, "--seed", 5)
    assert said.status == 0 and "\n  touch the red cube: 0.0% [0.0%, " in said.out
    found = json.loads(run("eval", folder.path, "--episodes", 30, "--seed", 5, "--json").out)
    assert f"({found['instructions']['touch the red cube']['successes']} of " in said.out
    assert sum(rate["episodes"] for rate in found["instructions"].values()) == 30


@pytest.mark.skipif(not gl.available(), reason="nothing to draw with")
def test_a_suite_says_where_its_picture_is(run: Run, tmp_path: Path) -> None:
    folder = make_language_run(tmp_path / "run")
    said = run("eval", folder.path, "--suite", "generalisation", "--episodes", 1)
    picture = folder.path / "generalisation.png"
    assert said.status == 0 and said.out.endswith(f"picture: {picture}\n") and picture.stat().st_size > 10_000
    (tmp_path / "file").write_text("")
    blocked = run("eval", folder.path, "--suite", "generalisation", "--out", tmp_path / "file" / "x.png")
    assert_one_line(blocked, str(tmp_path / "file"))


NOWHERE = """
import contextlib, sys
from robotlearn import cli
sys.argv = ["robotlearn", "eval", "runs/nope"]
with contextlib.suppress(SystemExit):
    cli.main()
print("torch" in sys.modules)
"""


def test_eval_of_what_is_no_run_needs_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", NOWHERE], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n" and done.stderr.startswith("robotlearn: runs/nope: there is no such run folder")


def test_a_missing_checkpoint(run: Run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", foreign="")
    folder.reserve_version(7)
    for command in (["eval", folder.path], ["learner", folder.config, "--run", folder.path, "--resume"]):
        assert_one_line(run(*command), "no checkpoint in", str(folder.checkpoints))


def test_a_damaged_checkpoint(run: Run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    path = folder.checkpoints / "000003" / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert_one_line(run("eval", folder.path), "policy.safetensors is damaged")


def test_a_foreign_checkpoint_names_the_key(run: Run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", foreign="policy.denoising_steps=3")
    for command in (["eval", folder.path], ["learner", folder.config, "--run", folder.path, "--resume"]):
        assert_one_line(run(*command), "belongs to another policy: policy.denoising_steps is 3 there and 2 here")


@pytest.mark.parametrize("command", ["learner", "train"])
def test_a_run_that_is_there_already_is_not_overwritten(run: Run, tmp_path: Path, command: str) -> None:
    folder = make_run(tmp_path / "run")
    before = folder.config.read_bytes()
    assert_one_line(run(command, "smoke", "--run", folder.path), "already holds a run; continue it with --resume")
    assert folder.config.read_bytes() == before


@pytest.mark.parametrize("command", ["learner", "train"])
def test_resume_needs_a_run(run: Run, tmp_path: Path, command: str) -> None:
    assert_one_line(run(command, "smoke", "--resume"), "--resume needs --run")
    assert_one_line(run(command, "smoke", "--resume", "--run", tmp_path / "no"), "is not a run folder")


@pytest.mark.parametrize("command", ["learner", "train"])
def test_a_file_above_the_run_folder(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    assert_one_line(run(command, "smoke", "--run", tmp_path / "file" / "run"), str(tmp_path / "file"))


@pytest.mark.skipif(not gl.available(), reason="nothing to draw with")
def test_a_video_that_can_not_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = run("eval", make_run(tmp_path / "run").path, "--video", tmp_path / "file" / "film.mp4")
    assert_one_line(said, str(tmp_path / "file"))


def test_run_refuses_what_it_can_not_drive_before_a_process_starts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robotlearn.processes.Child.__init__", lambda *_: pytest.fail("a process was started"))
    folder = make_run(tmp_path / "run")
    foreign = tmp_path / "other.yaml"
    write_spec(foreign, load_spec("panda"), name="other")
    said = run("run", folder.path, "--robot", foreign)
    assert_one_line(said, str(foreign), "does not fit the policy", "it is for panda, not other")
    assert_one_line(run("run", folder.path, "--robot", "pando"), "unknown robot model 'pando'")
    assert_one_line(run("run", tmp_path / "nowhere"), "there is no such run folder or checkpoint")
    assert_one_line(
        run("run", make_run(tmp_path / "odd", foreign="policy.denoising_steps=3").path), "belongs to another policy"
    )
    write_spec(foreign, load_spec("panda"), driver="mujco")
    assert_one_line(run("run", folder.path, "--robot", foreign), "unknown driver 'mujco'")


def test_a_resumed_run_keeps_its_own_config(run: Run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "seed=3", foreign="policy.denoising_steps=3")
    said = run("learner", "smoke", "--run", folder.path, "--resume")
    first, second = said.err.splitlines()  # the second: it can't go on from that checkpoint
    assert (
        first.startswith("the run goes on with its own config and what is overridden here; smoke differs from it in")
        and "seed" in first
    )
    assert "belongs to another policy" in second and load_config(folder.config).seed == 3


@pytest.mark.parametrize("command", ["learner", "train"])
def test_a_file_where_the_run_folder_should_be(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    assert_one_line(run(command, "smoke", "--run", tmp_path / "file"), str(tmp_path / "file"))


def test_a_second_learner_on_the_same_run_folder_is_refused(run: Run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with folder:
        said = run("learner", folder.config, "--run", folder.path, "--resume")
    assert_one_line(said, f"in use by another learner (process {os.getpid()})")


@pytest.mark.parametrize("name", [None, "left"], ids=["no name", "an unknown name"])
def test_an_edge_must_be_chosen_where_there_are_several(run: Run, name: str | None) -> None:
    more = ["--name", name] if name else []
    said = run("edge", "smoke", "--learner", "tcp://127.0.0.1:9", *more)
    assert_one_line(said, "choose with --name one of station, batch")


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:*", "udp://127.0.0.1:5", "tcp://127.0.0.1:99999"])
@pytest.mark.parametrize("edge", ["batch", "station"])
def test_a_malformed_address_of_the_learner(run: Run, tmp_path: Path, address: str, edge: str) -> None:
    said = run("edge", "smoke", *SMALL, "--learner", address, "--name", edge, "--state", tmp_path / "state")
    assert_one_line(said, address)


def test_a_video_must_have_a_known_suffix(run: Run, tmp_path: Path) -> None:
    said = run("eval", make_run(tmp_path / "run").path, "--video", "film.avi")
    assert_one_line(said, "--video film.avi: neither an .mp4 nor a .gif")


@pytest.mark.parametrize("command", [None, "train", "learner", "edge", "eval", "run", "robots", "view"])
def test_help_suffices(run: Run, command: str | None) -> None:
    said = run(*([command] if command else []), "--help")
    assert said.status == 0 and "Usage:" in said.out
    expected = {
        None: ["train", "learner", "edge", "eval", "run", "robots", "view", "--version"],
        "train": ["CONFIG", "--run", "--resume", "--rerun", "key=value"],
        "learner": ["CONFIG", "--run", "--resume", "--rerun", "key=value"],
        "edge": ["CONFIG", "--learner", "tcp://HOST:PORT", "--name", "--state"],
        "eval": ["RUN", "--episodes", "--seed", "--video", "--json"],
        "run": ["POLICY", "--robot", "--episodes", "--dry-run", "--json"],
        "robots": ["ROBOT|CONFIG"],
        "view": ["ROBOT|RUN", "--task", "--expert"],
    }[command]
    assert [word for word in expected if word not in said.out] == []


def test_processes_of_the_inside_are_not_shown(run: Run) -> None:
    assert "policy-server" not in run("--help").out


def test_a_key_that_there_is_not_is_told_with_the_nearest(run: Run) -> None:
    assert_one_line(run("config", "learner.bindd"), "'learner.bindd', nearest is 'learner.bind'")
    assert_one_line(run("config", "edges.0.armss"), "'edges.0.armss', nearest is 'edges.*.arms'")
    assert_one_line(run("config", "xyzzy"), "'xyzzy'; `robotlearn config` shows all")


def test_robots_shows_the_shipped_ones(run: Run) -> None:
    said = run("robots")
    assert said.status == 0
    header, *rows = said.out.splitlines()
    assert header.split() == ["robot", "model", "driver", "arms", "joints", "rate", "state"]
    (panda,) = [row for row in rows if row.startswith("panda")]
    assert all(part in panda for part in ("mujoco", "7 + gripper", "10 Hz", "ok"))


def test_robots_of_a_config(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path))
    said = run("robots", "smoke")
    station, batch = said.out.splitlines()[1:]
    assert station.startswith("station") and batch.startswith("batch")
    assert f" {load_config('smoke').edges[1].arms} " in batch
    assert_one_line(run("robots", "smokey"), "no shipped config, nearest is 'smoke'")
    told = run("robots", "three-arms").out
    assert "dds" in told and "lerobot" in told and told.count("offline: nothing") == 2


def test_robots_checks_a_spec(run: Run, tmp_path: Path) -> None:
    import yaml

    _, row = run("robots", "so101").out.splitlines()
    assert row.startswith("so101") and row.split()[-1] == "ok"
    assert_one_line(run("robots", "pando"), "unknown robot model 'pando': did you mean 'panda'?")
    assert_one_line(run("robots", "nope"), "unknown robot model 'nope': valid: panda, ")
    mine = tmp_path / "mine.yaml"
    assert_one_line(run("robots", mine), "there is no such spec file")
    content = load_spec("panda").model_dump(mode="json")
    mine.write_text(yaml.safe_dump(content))
    assert run("robots", "mine.yaml").out.splitlines()[1].startswith("mine")
    mine.write_text(yaml.safe_dump(content | {"contrl_hz": 10.0}))
    assert_one_line(run("robots", mine), f"{mine}: unknown key 'contrl_hz': did you mean 'control_hz'?")
    content["mujoco"]["joints"][0] = "jiont1"
    mine.write_text(yaml.safe_dump(content))
    assert_one_line(run("robots", mine), "mujoco.joints: no 'jiont1' in the model (did you mean 'joint1'?")
    mine.write_text("joints: [")
    assert_one_line(run("robots", mine), f"{mine}:1: not YAML")


def test_what_is_not_the_users_to_mend_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: str | None) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("robotlearn.robots.table.show_robots", broken)
    with pytest.raises(ZeroDivisionError):
        run("robots")


def test_the_whole_program_once(tmp_path: Path) -> None:
    """As a user starts it: the message, the status, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "robotlearn", "train", "smoke", "learner.updats=3", "--run", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert_one_line(Said(done.returncode, done.stdout, done.stderr), "nearest is 'updates'")


HELP = """
import contextlib, sys
from robotlearn import cli
sys.argv = ["robotlearn", "train", "--help"]
with contextlib.suppress(SystemExit):
    cli.main()
print([name for name in ("torch", "mujoco", "numpy", "zmq") if name in sys.modules])
"""


def test_a_help_needs_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("command", ["learner", "train"])
def test_a_live_view_that_can_not_be_is_told_before_anything_starts(run: Run, tmp_path: Path, command: str) -> None:
    said = run(command, "smoke", "--run", tmp_path / "run", "--rerun", "film.mp4")
    assert_one_line(said, "--rerun film.mp4: expected viewer, FILE.rrd, or rerun+http://HOST:9876/proxy")
    assert not (tmp_path / "run").exists()


def test_a_window_needs_a_display(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    said = run("view", "panda", "--task", "lift")
    assert_one_line(said, "no display here")
    assert "eval" not in said.err, "nothing else would show a robot without a run"
    folder = make_run(tmp_path / "run", foreign="").path
    assert_one_line(run("view", folder), "no display here", f"robotlearn eval {folder} --video FILE.mp4")
    assert_one_line(run("view", "pando"), "unknown robot model 'pando'")
    assert_one_line(run("view", "no/such.yaml"), "there is no such spec file")


VIEW = """
import contextlib, sys
from robotlearn import cli
sys.argv = ["robotlearn", "view", "panda", "--task", "lift"]
with contextlib.suppress(SystemExit):
    cli.main()
print([name for name in ("torch", "envs") if name in sys.modules])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do without a screen")
def test_that_there_is_no_display_is_told_before_torch_is_imported() -> None:
    bare = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run([sys.executable, "-c", VIEW], capture_output=True, text=True, timeout=60, env=bare)
    assert done.stdout.splitlines()[-1] == "[]" and "no display here" in done.stderr, done.stderr
