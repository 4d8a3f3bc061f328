"""What the pages name is there: files, links, and every command line as the command line takes it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from robotlearn.cli import app
from robotlearn.config import load_config
from tests.pages import ROOT, Page

PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
FOLDERS = "hal|envs|policies|robotlearn|hardware_specs|configs|launch|tests|benchmarks|docs|scripts"
WITH_COMMANDS = {
    "README.md": "", "docs/datasets.md": "bash", "docs/fine-tune-a-vla.md": "bash", "docs/quick-start.md": "bash",
    "docs/robots.md": "bash",
}  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_every_file_that_a_page_names_is_there(path: str) -> None:
    text = re.sub(r"^```.*?^```", "", Page(path).text, flags=re.DOTALL | re.MULTILINE)
    named = [ROOT / name for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text)]
    links = re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", text)
    missing = [str(file) for file in [*named, *((ROOT / path).parent / link for link in links)] if not file.exists()]
    assert missing == []


COMMANDS = [(path, line) for path, language in WITH_COMMANDS.items() for line in Page(path).commands(language)]


@pytest.mark.parametrize(("path", "line"), COMMANDS, ids=[f"{path}: {' '.join(line)}" for path, line in COMMANDS])
def test_every_command_line_is_one(path: str, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, *arguments = (word.replace("public-...", f"public-{'0' * 64}") for word in line)
    command = typer.main.get_command(app).commands[name]
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    given = command.make_context(name, arguments).params
    if given.get("config") is not None and "overrides" in given:
        load_config(given["config"], given["overrides"] or [])


SHOWN = [
    (path, block)
    for path in WITH_COMMANDS
    for block in (*Page(path).blocks(), *Page(path).blocks("text"))
    if block.startswith("$ robotlearn ")
]


@pytest.mark.parametrize(("path", "block"), SHOWN, ids=[block.partition("\n")[0] for _, block in SHOWN])
def test_what_a_page_shows_as_an_answer_is_the_answer(path: str, block: str, tmp_path: Path) -> None:
    line, *answer = block.splitlines()
    command = [sys.executable, "-m", *line.removeprefix("$ ").split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert [*done.stdout.splitlines(), *done.stderr.splitlines()] == answer
