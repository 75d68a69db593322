"""A JupyterLab server for the tests: on a free local port, without the user's settings or network access."""

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

STARTED_WITHIN, STOPPED_WITHIN = 300, 60  # seconds, for a busy machine
# The server and its kernels stop when the parent process ends in any way, which closes the server's standard input.
WATCHED = """
import os, signal, sys, threading
ended = lambda: (sys.stdin.read(), os.kill(os.getpid(), signal.SIGTERM))
threading.Thread(target=ended, daemon=True).start()
from jupyterlab.labapp import main
main()
"""
OPTIONS = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--LabApp.news_url=None"]
OPTIONS += ["--LabApp.extension_manager=readonly", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
NEWS = "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
OWN = {
    "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
}  # fmt: skip


@contextmanager
def jupyter_lab(folder: Path, notebooks: Sequence[Path], outputs: Path) -> Iterator[str]:
    """Run JupyterLab on copies of notebooks with `outputs`; yields its URL with {0} in place of a notebook's stem."""
    (folder / "notebooks").mkdir()
    for notebook in notebooks:
        copy(notebook, folder / "notebooks")
    (folder / NEWS).parent.mkdir(parents=True)
    (folder / NEWS).write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port, token = free.getsockname()[1], secrets.token_hex()
    own = [
        f"--ServerApp.port={port}",
        f"--ServerApp.root_dir={folder / 'notebooks'}",
        f"--IdentityProvider.token={token}",
    ]
    # Kernels import this checkout's package. MPLBACKEND set for scripts would keep figures out of the notebooks.
    path = os.pathsep.join(filter(None, [str(project_root()), os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment |= {name: str(folder / place) for name, place in OWN.items()}
    environment |= {"ANM_NB_OUTPUTS": str(outputs), "PYTHONPATH": path}
    command, log = [sys.executable, "-c", WATCHED, *OPTIONS, *own], folder / "log.txt"
    with log.open("w") as out:
        streams = {"stdin": subprocess.PIPE, "stdout": out, "stderr": out}
        server = subprocess.Popen(command, cwd=folder, env=environment, **streams)
        try:
            wait_for(server, f"http://127.0.0.1:{port}/api/status?token={token}", log)
            yield f"http://127.0.0.1:{port}/lab/workspaces/{{0}}/tree/{{0}}.ipynb?token={token}"
        finally:
            server.terminate()  # also ends its kernels
            try:
                server.wait(STOPPED_WITHIN)
            except subprocess.TimeoutExpired:
                server.kill()  # kernels end when it is gone
                server.wait()


def wait_for(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + STARTED_WITHIN
    while server.poll() is None and time.monotonic() < until:
        try:
            with urlopen(address, timeout=STARTED_WITHIN):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")
