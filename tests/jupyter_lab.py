"""A JupyterLab of the tests' own: on a free port of this machine, with nothing of the user's and nothing fetched."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copy
from urllib.request import urlopen

from anm_nb.files import project_root

STARTED_WITHIN, STOPPED_WITHIN = 300, 60  # seconds, on a machine with much else to do
# Ends, and its kernels with it, when whoever started it has ended in whatever way: then its standard input is closed.
WATCHED = """
import os, signal, sys, threading
ended = lambda: (sys.stdin.read(), os.kill(os.getpid(), signal.SIGTERM))
threading.Thread(target=ended, daemon=True).start()
from jupyterlab.labapp import main
main()
"""
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}


@contextmanager
def jupyter_lab(folder: Path, notebooks: Sequence[Path], outputs: Path) -> Iterator[str]:
    """JupyterLab on copies of notebooks, over these outputs; yields its address with {0} for a notebook's stem."""
    (folder / "notebooks").mkdir()
    for notebook in notebooks:
        copy(notebook, folder / "notebooks")
    news = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps(NO_NEWS))
    port, token = _free_port(), secrets.token_hex()
    address = f"http://127.0.0.1:{port}"
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", WATCHED, *_options(folder, port, token)],
            cwd=folder, env=_environment(folder, outputs), stdin=subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _wait_for(server, f"{address}/api/status?token={token}", folder / "log.txt")
            yield f"{address}/lab/workspaces/{{0}}/tree/{{0}}.ipynb?token={token}"
        finally:
            server.terminate()  # it ends its kernels, too
            try:
                server.wait(STOPPED_WITHIN)
            except subprocess.TimeoutExpired:
                server.kill()  # kernels end when they miss it
                server.wait()


def _options(folder: Path, port: int, token: str) -> list[str]:
    values = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder / "notebooks",
        "IdentityProvider.token": token,
        "LabApp.extension_manager": "readonly",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.news_url": "None",
    }
    root = ["--allow-root"] if os.geteuid() == 0 else []
    return ["--no-browser", *root, *(f"--{name}={value}" for name, value in values.items())]


def _environment(folder: Path, outputs: Path) -> dict[str, str]:
    """Kernels import this checkout's package, and what JupyterLab and IPython keep for a user stays in the folder."""
    own = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
    }  # fmt: skip
    path = os.pathsep.join(filter(None, [str(project_root()), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {name: str(folder / place) for name, place in own.items()}
    environment.pop("MPLBACKEND", None)  # one for scripts would keep figures out of the notebooks
    return environment | {"ANM_NB_OUTPUTS": str(outputs), "PYTHONPATH": path}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait_for(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + STARTED_WITHIN
    while server.poll() is None and time.monotonic() < until:
        try:
            with urlopen(address, timeout=STARTED_WITHIN):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")
