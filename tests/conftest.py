"""Tests run with the shapes in signatures checked on every call, and the same examples every time."""

import os
import signal
from importlib.util import find_spec

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from jupyter_page import CHROMIUM

# Tests run side by side, one process a core; two threads each would only wait for one another.
torch.set_num_threads(1)

# Where tests are started in the background of a script, what they start in turn would ignore Ctrl-C as they do.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines differ too much for a deadline; a red run has to be red again when repeated.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


def pytest_configure(config: pytest.Config) -> None:
    """Check shapes, except where a GPU captures steps as they are, and with ANM_NB_SHAPES=off."""
    on_gpu = torch.cuda.is_available() or config.option.markexpr == "gpu"
    if not on_gpu and os.environ.get("ANM_NB_SHAPES") != "off":
        checked = ["anm_nb.tasks", "anm_nb.training", "anm_nb.energy", "anm_nb.ranking"]
        install_import_hook(checked, "shape_checker.checked")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What this run leaves out is skipped with its reason; a marker expression (-m) runs what it names."""
    reasons = {"slow": "takes minutes; run with PYTEST_ARGS='-m slow'"}
    if not torch.cuda.is_available():
        reasons["gpu"] = "no CUDA device here"
    if find_spec("playwright") is None:
        reasons["browser"] = "the package's extra `browser` is not installed"
    elif CHROMIUM is None:
        reasons["browser"] = "no Chromium here (on Debian: apt-get install chromium)"
    for item in items:
        for name, reason in reasons.items():
            if item.get_closest_marker(name) and not (name == "slow" and config.option.markexpr):
                item.add_marker(pytest.mark.skip(reason=f"{name}: {reason}"))


def pytest_terminal_summary(terminalreporter) -> None:
    """Times that tests took in the browser, which are told and not judged."""
    told = [text for report in terminalreporter.stats.get("passed", ()) for _, text in _told_by(report)]
    if told:
        terminalreporter.write_sep("-", "in the browser")
        terminalreporter.write_line("\n".join(told))


def _told_by(report) -> list[tuple[str, str]]:
    return [each for each in report.user_properties if each[0] == "browser"] if report.when == "call" else []


@pytest.fixture(scope="module")
def quick_disk():
    """Tests that are not about the disk or git do not wait for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr("anm_nb.files.checkout_state", lambda: {"commit": None, "dirty": None})
        yield
