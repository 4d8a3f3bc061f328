"""The page's YAML and code are run, on MJCFs in the style of those it speaks of."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import hal
from hal.binding import Binding, load_model
from hal.drivers.mujoco import MujocoRobot
from tests.foreign import LEVERS, OPPOSED, write_mjcf
from tests.pages import Page

PAGE = Page("docs/bring-your-own-mjcf.md")


def test_the_spec_and_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_panda.yaml").write_text(PAGE.blocks("yaml")[0])
    write_mjcf(tmp_path / "mujoco_menagerie" / "franka_emika_panda")
    monkeypatch.chdir(tmp_path)
    (code,) = PAGE.blocks("python")
    ran: dict[str, object] = {}
    exec(code, ran)
    assert isinstance(ran["spec"], hal.RobotSpec)
    assert ran["spec"].name == "my_panda"


CASES = {"levers": (1, LEVERS, 0.085), "opposed": (2, OPPOSED, 0.08)}


@pytest.mark.parametrize(("block", "gripper", "width"), CASES.values(), ids=CASES)
def test_the_grippers(tmp_path: Path, block: int, gripper: str, width: float) -> None:
    content = yaml.safe_load(PAGE.blocks("yaml")[0])
    for key in [key for key in content["mujoco"] if key.startswith("gripper_")]:
        del content["mujoco"][key]
    mjcf = str(write_mjcf(tmp_path / "mjcf", gripper))
    content["mujoco"] |= yaml.safe_load(PAGE.blocks("yaml")[block]) | {"mjcf": mjcf}
    content["gripper"] |= {"upper": width, "home": width}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
    spec = hal.load_spec(tmp_path / "spec.yaml")
    hal.check_robot(MujocoRobot(spec))


def test_the_message_is_what_one_gets(tmp_path: Path) -> None:
    mjcf = write_mjcf(tmp_path / "mjcf", servo='<motor name="{p}motor{n}" joint="{p}joint{n}" gear="1"/>')
    content = yaml.safe_load(PAGE.blocks("yaml")[0])
    content["mujoco"] |= {"mjcf": str(mjcf), "actuators": [f"motor{i}" for i in range(1, 8)]}
    content["mujoco"]["joints"][0] = "jiont1"
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
    spec = hal.load_spec(tmp_path / "spec.yaml")
    with pytest.raises(hal.SpecError) as caught:
        Binding.of(spec, load_model(spec))
    (text,) = PAGE.blocks("text")
    for line in text.strip().splitlines():
        assert line.removesuffix(" ...") in str(caught.value)
