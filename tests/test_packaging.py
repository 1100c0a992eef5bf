from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import robovision
from tests.helpers import python

ROOT = Path(__file__).parent.parent
SHOW = "import robovision.envs, robovision.agents, robovision.lidar, robovision.cli; print(robovision.__file__)"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from the sdist, as installers do where there is no wheel."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return next(out.glob("*.whl"))


def test_a_wheel_works_from_a_neutral_folder(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {"robovision/envs/registry.py", "robovision/agents/train.py", "robovision/lidar/__init__.py"} < set(names)
    assert not [name for name in names if name.startswith(("envs/", "agents/", "lidar/", "tests/"))]
    (tmp_path / "neutral").mkdir()
    answer = python(SHOW, tmp_path / "neutral", tmp_path / "site")
    assert answer.stdout.strip() == str(tmp_path / "site" / "robovision" / "__init__.py"), answer
    assert wheel.stat().st_size < 40 * 2**20


def test_the_installed_package_works_from_a_neutral_folder(tmp_path: Path) -> None:
    answer = python(SHOW, tmp_path)
    assert answer.stdout.strip() == str(Path(robovision.__file__)), answer


@pytest.mark.parametrize("name", ["envs", "agents", "lidar"])
def test_a_folder_is_not_imported_by_its_bare_name(name: str) -> None:
    answer = python(f"import {name}", ROOT)
    assert answer.returncode == 1
    assert f"import this package as `robovision.{name}`" in answer.stderr


def test_the_changelog_knows_this_version() -> None:
    assert f"## {robovision.__version__}" in (ROOT / "CHANGELOG.md").read_text()
