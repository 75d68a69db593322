"""The lists of packages agree with one another, and the stored notebooks are what a check can stand on."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = CORE + [Requirement(line) for line in EXTRAS["dev"] + EXTRAS["browser"]]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def pins(lines: list[str]) -> dict[str, Version]:
    found = [line.split("==") for line in lines if re.match(r"[\w.-]+==", line)]
    return {canonicalize_name(name): Version(number) for name, number in found}


LOCK = pins((ROOT / "requirements.lock").read_text().splitlines())


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_locked_within_its_bounds_and_installed_so(requirement: Requirement):
    locked = LOCK[canonicalize_name(requirement.name)]
    assert locked in requirement.specifier
    assert Version(Version(version(requirement.name)).public) == locked


def test_environment_yml_pins_the_core_dependencies_as_the_lock_does():
    lines = next(entry["pip"] for entry in CONDA if isinstance(entry, dict))
    core = {canonicalize_name(requirement.name) for requirement in CORE}
    assert pins(lines) == {name: LOCK[name] for name in core}
    assert "--constraint requirements.lock" in lines


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_as_they_ran(path: Path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    assert not [output.ename for cell in code for output in cell.outputs if output.output_type == "error"]
    assert not any("execution" in cell.metadata for cell in code), "timing metadata changes with every run"
