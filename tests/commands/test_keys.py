"""`robotlearn keys`: made, allowed, revoked, listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from robotlearn import cli
from robotlearn.config import load_config
from robotlearn.errors import ConfigError, KeysError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBOTLEARN_KEYS", str(tmp_path / "keys"))
    return tmp_path / "keys"


def said(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["keys", *arguments])


def new(name: str) -> str:
    done = said("new", name)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_a_key_is_made_allowed_listed_and_revoked(folder: Path) -> None:
    left = new("left")
    assert left.startswith("public-") and (folder / "left.secret").exists()
    done = said("allow", "left", left, "--role", "edge", "--role", "arm")
    assert done.stdout == f"left may, by {folder}/allowed.yaml: edge, arm\n"
    told = json.loads(said("ls", "--json").stdout)
    assert told["own"] == [{"name": "left", "key": left}]
    assert told["allowed"] == [{"name": "left", "key": left, "roles": ["edge", "arm"]}]
    assert left in said("ls").stdout
    assert said("allow", "left", new("other")).exit_code == 0
    (entry,) = json.loads(said("ls", "--json").stdout)["allowed"]
    assert entry["key"] != left and entry["roles"] == ["edge"], "a name has one key"
    assert said("revoke", "left").stdout.startswith("left (public-")
    assert json.loads(said("ls", "--json").stdout)["allowed"] == []


def test_whoever_an_entry_replaces_is_named(folder: Path) -> None:
    left, other = new("left"), new("other")
    assert said("allow", "left", left).stderr == ""
    assert said("allow", "left", left, "--role", "arm").stderr == "", "the same key may have other roles"
    assert said("allow", "right", left).stderr.startswith(f"left ({left}) is let in no more")
    assert said("allow", "right", other).stderr.startswith(f"right ({left}) is let in no more")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["allow", "left", "public-12"], "is no key: expected public- and 64 hexadecimal digits"),
        (["allow", "left", f"secret-{'0' * 64}"], "that is a secret key"),
        (["allow", "left", f"public-{'0' * 64}", "--role", "king"], "expected of edge, weights, arm"),
        (["revoke", "left"], "allowed: nobody"),
        (["new", "../left"], "can't name a key"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], why: str) -> None:
    error = said(*arguments).exception
    assert isinstance(error, KeysError) and why in str(error)


def test_a_config_wants_the_public_half() -> None:
    for key, why in ((f"secret-{'0' * 64}", "the secret one"), ("public-1", "64 hexadecimal digits")):
        with pytest.raises(ConfigError, match=why):
            load_config("smoke", [f"learner.key={key}"])
