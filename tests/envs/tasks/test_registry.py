"""Tasks by name, by their words, and by the entry points of installed packages."""

from itertools import combinations
from pathlib import Path

import pytest

from envs import TaskError, make_task, register_task, task_names, task_of, tasks
from envs.tasks.lift import Lift
from hal import load_spec

SPEC = load_spec("panda")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_classes", dict(tasks._classes))


def install(folder: Path, name: str, source: str) -> None:
    """A real distribution on the path, as pip leaves it, with one task."""
    (folder / f"{name}_tasks.py").write_text(source)
    info = folder / f"{name}_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[robotlearn.tasks]\n{name} = {name}_tasks:Theirs\n")


def test_ours_have_at_least_four_wordings_and_share_none() -> None:
    classes = [tasks.task_class(name) for name in task_names()]
    assert {task.name for task in classes} == {"reach", "lift", "push", "pick_place", "stack", "peg", "touch", "put"}
    for task in classes:
        assert len({words.lower() for words in task.instructions}) >= 4
    for one, other in combinations(classes, 2):
        assert not {*one.instructions, *one.held_out} & {*other.instructions, *other.held_out}


def test_an_instruction_names_its_task() -> None:
    for name in task_names():
        task = tasks.task_class(name)
        for words in (*task.instructions, *task.held_out):
            assert task_of(words) == name
    assert task_of("  Pick up the RED cube. ") == "lift"
    assert task_of("make coffee") is None


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(TaskError, match="did you mean 'stack'"):
        make_task("stck", SPEC)
    with pytest.raises(TaskError, match="there are lift, peg"):
        make_task("xyzzy", SPEC)


def test_a_name_and_an_instruction_belong_to_one_task() -> None:
    class Taken(Lift):
        pass

    class SameWords(Lift):
        name = "raise"
        instructions = ("raise it", "Pick up the red cube!")

    register_task(Lift)
    with pytest.raises(TaskError, match="'lift' is taken"):
        register_task(Taken)
    with pytest.raises(TaskError, match="'pick up the red cube' in common with 'lift'"):
        register_task(SameWords)


def test_an_installed_package_adds_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from envs.tasks.lift import Lift\nclass Theirs(Lift):\n"
    install(tmp_path, "theirs", source + "    name = 'theirs'\n    instructions = ('hoist the cube',)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "theirs" in task_names()
    assert "theirs" not in tasks._classes  # not imported before it is asked for
    assert type(make_task("theirs", SPEC)).__name__ == "Theirs"
    assert task_of("hoist the cube") == "theirs"


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("broken", "import nothing_of_that_name", "of the package broken-tasks can't be loaded: ModuleNotFoundError"),
        ("alien", "Theirs = 3", "must be a subclass of Task of that name, not 3"),
    ],
)
def test_a_package_that_can_not_be_used_is_named(
    name: str, source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, name, source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TaskError, match=words):
        make_task(name, SPEC)
