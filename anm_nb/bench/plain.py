"""The plain references of `benchmarks/`, which come with the checkout and not with the installed package."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from anm_nb.config import ParameterError
from anm_nb.files import project_root


def plain_module(name: str) -> ModuleType:
    """A module of `benchmarks/` by its name, such as "plain_energy". Raises `ParameterError` where it is missing."""
    path = project_root() / "benchmarks" / f"{name}.py"
    if not path.exists():
        raise ParameterError(
            f"{path} is missing: the plain references are in the project's repository, not in the installed package; "
            "run this from a checkout"
        )
    spec = importlib.util.spec_from_file_location(f"benchmarks.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
