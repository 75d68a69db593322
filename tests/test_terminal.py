"""What commands print, on terminals and of texts that are not what one would like, and where no clone is around."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stored_training import energy

from anm_nb.files import project_root
from anm_nb.run import Manifest
from anm_nb.store import get_or_train
from anm_nb.terminal import plain

ODD = "[/bold] [red]a[/red] :smile: [link=https://a.org]b[/link]"
HIDING = "\x1b[31mred\x1b[0m\x1b]0;title\x07 \x1b[2Jgone \u202eback \x9b1mC1 \b\b\r"


def anm_nb(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "anm_nb.cli", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, check=False)


def stored(outputs: Path, monkeypatch: pytest.MonkeyPatch, **facts: str) -> str:
    """The key of a run in a new store, which looks like an energy run and has these facts in its summary."""
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(outputs))
    run = get_or_train(energy("none", steps=3, records=3))
    contents = {name: (run.path / name).read_bytes() for name in run.manifest.files}
    Manifest.of(contents, run.manifest.identity, run.summary | facts).write(run.path)
    return run.key


# terminals


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "ascii:strict"])
def test_commands_go_on_where_the_terminal_lacks_their_characters(tmp_path, monkeypatch, encoding):
    key = stored(tmp_path, monkeypatch, method="größer ≥ 0 – λ")
    for arguments in (("runs", "ls"), ("runs", "show", key), ("doctor", key), ("runs", "verify")):
        ran = anm_nb(*arguments, PYTHONIOENCODING=encoding)
        assert (ran.returncode, ran.stderr) == (0, b""), arguments
        assert ran.stdout
    assert b"gr" in anm_nb("runs", "ls", PYTHONIOENCODING=encoding).stdout


def test_a_machine_without_any_locale_lists_and_refuses_as_others_do(tmp_path, monkeypatch):
    stored(tmp_path, monkeypatch, task="π")
    bare = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert anm_nb("runs", "ls", **bare).returncode == 0
    refused = anm_nb("runs", "show", "größer", **bare)
    assert (refused.returncode, refused.stderr[:8]) == (2, b"anm-nb: ")


# texts of files


def test_texts_of_files_are_neither_markup_nor_commands_to_the_terminal(tmp_path, monkeypatch):
    key = stored(tmp_path, monkeypatch, method=ODD, task=HIDING)
    for arguments in (("runs", "ls"), ("runs", "show", key), ("doctor", key)):
        ran = anm_nb(*arguments, COLUMNS="400", FORCE_COLOR="")
        assert (ran.returncode, ran.stderr) == (0, b""), arguments
        said = ran.stdout.decode()
        assert ODD in said
        assert not set(said) & set("\x1b\x07\x9b\b\r\u202e")
        assert "red gone back" in said


def test_an_error_that_quotes_a_file_is_plain_text(tmp_path, monkeypatch):
    stored(tmp_path, monkeypatch, method="\x1b[2Janm")
    refused = anm_nb("runs", "ls", "--method", "am\x1b[1mn")
    assert refused.returncode == 2
    assert b"unknown method 'amn'" in refused.stderr
    assert b"\x1b" not in refused.stderr


def test_colours_of_a_kernel_s_error_and_lines_stay_apart():
    assert plain("a\x1b[0;31mb\n\tc\x1b[0m") == "ab\n\tc"
    assert plain("\x1bPdevice\x1b\\x\x1b_app\x07y") == "xy"
    assert plain("τ ≥ 0.9, 日本") == "τ ≥ 0.9, 日本"


# an installed copy without a clone


@pytest.fixture
def installed(tmp_path):
    """A copy of the package as pip installs it: no clone around it."""
    shutil.copytree(project_root() / "anm_nb", tmp_path / "site" / "anm_nb")
    (tmp_path / "empty").mkdir()
    return tmp_path


def run_installed(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(installed / "site"), *other_paths()]))
    environment = {name: value for name, value in os.environ.items() if name != "ANM_NB_OUTPUTS"}
    environment["PYTHONPATH"] = path
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def other_paths() -> list[str]:
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [path for path in paths if path and not (Path(path) / "anm_nb").exists()]


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "anm_nb.cli", "demo"),
        ("-m", "anm_nb.cli", "sweep", "hrm"),
        ("-m", "anm_nb.cli", "index"),
        ("-m", "anm_nb.cli", "figures", "--venue", "icml"),
        ("-c", "from anm_nb.analysis import kept; kept.load('hrm')"),
    ],
    ids=lambda arguments: " ".join(arguments[1:4]),
)
def test_without_a_clone_what_is_missing_is_said_and_how_to_get_it(installed, arguments):
    ran = run_installed(installed, installed / "empty", *arguments)
    assert ran.returncode != 0
    last = ran.stderr.strip().splitlines()[-1]
    for said in ("notebooks, params and kept results", "Clone it", "pip install -e .", str(installed / "empty")):
        assert said in last
    assert "-c" in arguments or ran.stderr.count("\n") == 1


def test_an_installed_copy_finds_the_clone_it_is_used_in(installed):
    for folder in (project_root(), project_root() / "notebooks"):
        command = ("-m", "anm_nb.cli", "sweep", "hrm_entropy", "--profile", "quick", "--dry-run")
        ran = run_installed(installed, folder, *command)
        assert ran.returncode == 0, ran.stderr
        assert "to run" in ran.stdout


def test_another_project_s_folder_is_no_clone(installed):
    (installed / "empty" / "pyproject.toml").write_text('[project]\nname = "other"\n')
    ran = run_installed(installed, installed / "empty", "-m", "anm_nb.cli", "sweep", "hrm")
    assert (ran.returncode, "Clone it" in ran.stderr) == (2, True)


def test_the_store_needs_no_clone(installed):
    ran = run_installed(installed, installed / "empty", "-m", "anm_nb.cli", "runs", "ls")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "0 of 0 runs" in ran.stdout


# platforms, packages, root


def test_windows_is_refused_in_one_sentence():
    ran = subprocess.run(
        [sys.executable, "-c", "import sys; sys.platform = 'win32'; import anm_nb.cli"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "ImportError: anm-nb does not run on Windows" in ran.stderr.splitlines()[-1]
    assert "WSL" in ran.stderr.splitlines()[-1]
    systems = [
        line for line in (project_root() / "pyproject.toml").read_text("utf-8").splitlines() if "System ::" in line
    ]
    assert systems
    assert not [line for line in systems if "Windows" in line or "Independent" in line]


def test_readme_says_where_it_runs_and_installs_from_the_clone_only():
    readme = (project_root() / "README.md").read_text("utf-8")
    sources = "".join(path.read_text("utf-8") for path in (project_root() / "anm_nb").rglob("*.py"))
    assert "Windows itself is not supported" in readme
    assert "pip install 'anm-nb" not in readme + sources
    assert "pip install anm-nb" not in readme + sources


@pytest.mark.parametrize(("uid", "allowed"), [(0, True), (1000, False)])
def test_make_lab_starts_as_root_too(tmp_path, uid, allowed):
    if shutil.which("make") is None:
        pytest.skip("no make here")
    who = tmp_path / "id"
    who.write_text(f"#!/bin/sh\necho {uid}\n")
    who.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["make", "--dry-run", "lab"],
        cwd=project_root(), env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (started,) = [line for line in ran.stdout.splitlines() if "jupyter lab" in line]
    assert ("--allow-root" in started) is allowed
