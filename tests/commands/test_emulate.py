"""`robotlearn emulate`: what is for another kind of robot is refused, not ignored."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from robotlearn.commands.emulate import emulate
from robotlearn.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["so101", "--namespace", "left"], "emulate so101: --namespace is for ros2-ROBOT and dds-ROBOT"),
        (["so101", "--camera", "nosuch"], "emulate so101: --camera is for"),
        (["dds-ur5e", "--port", "X"], "emulate dds-ur5e: --port is for so101"),
    ],
)
def test_a_flag_of_another_kind_is_refused(arguments: list[str], why: str) -> None:
    app = typer.Typer()
    app.command()(emulate)
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, ConfigError) and str(error).startswith(why)
