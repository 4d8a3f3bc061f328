"""The wheel, built without network: it holds the packages and the data folders, and finds its data where it lies."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("hal", "envs", "policies", "robotlearn")
FOLDERS = ("hardware_specs", "configs", "launch")

pytestmark = pytest.mark.xdist_group("wheel")  # one worker, so that the wheel is built once


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (*PACKAGES, *FOLDERS):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_module_and_every_data_file_and_nothing_else(wheel: Path) -> None:
    sources = [file for package in PACKAGES for kind in ("*.py", "*.css") for file in (ROOT / package).rglob(kind)]
    expected = {str(file.relative_to(ROOT)) for file in sources}
    expected |= {
        f"hal/_data/{file.relative_to(ROOT)}"
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.is_file()
    }
    beside = (".dist-info/", ".data/data/")  # what the wheel says of itself, and what ROS 2 looks for
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not any(part in name for part in beside)}
    assert {name for name in held if not name.endswith("py.typed")} == expected


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = {name.partition(".dist-info/")[2]: archive.read(name).decode() for name in archive.namelist()}
    assert "robotlearn = robotlearn.cli:main" in info["entry_points.txt"]
    metadata = info["METADATA"]
    assert "\nLicense-Expression: Apache-2.0\n" in metadata and "licenses/LICENSE" in info
    assert {line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Provides-Extra: ")} == {
        "bags",
        "bench",
        "datasets",
        "dds",
        "dev",
        "lerobot",
        "ray",
        "viz",
        "vla",
    }


def test_an_installed_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from hal.data import data_path\n"
        "from hal.spec import load_spec\n"
        "from robotlearn.config import load_config\n"
        "import hal\n"
        f"for folder in {FOLDERS}: print(data_path(folder))\n"
        "print(hal.__file__, load_config('laptop').task[0], load_spec('panda').name)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *paths, last = done.stdout.splitlines()
    assert paths == [str(site / "hal" / "_data" / folder) for folder in FOLDERS]
    assert last == f"{site / 'hal' / '__init__.py'} lift panda"
