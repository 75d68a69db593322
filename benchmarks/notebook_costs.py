"""Measure CPU seconds and peak memory of each notebook's quick profile, store them, and update README's table.

`python benchmarks/notebook_costs.py` runs the notebooks in sequence, each with one thread and an empty store, in ten
minutes of one core. CPU seconds, which include the kernel's start, hardly depend on other load of the machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from anm_nb.analysis.kept import kept_root
from anm_nb.files import checkout_state, describe_environment, project_root, replace_whole

root, kept = project_root(), kept_root() / "notebook_costs.json"
alone = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
costs: dict[str, dict[str, float]] = {}
for notebook in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
    with tempfile.TemporaryDirectory() as folder:
        profile = root / "params" / "quick" / f"{notebook.stem}.yaml"
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", notebook, Path(folder) / "out.ipynb"]
        process = subprocess.Popen(
            [*command, *(["-f", profile] if profile.exists() else [])],
            cwd=folder, env=os.environ | alone | {"ANM_NB_OUTPUTS": folder}, stderr=subprocess.PIPE,
        )  # fmt: skip
        errors = process.stderr.read().decode() if process.stderr else ""
        _, status, used = os.wait4(process.pid, 0)  # includes the kernel, for which papermill waits
    if status:
        sys.exit(f"{notebook.stem} failed:\n{errors}")
    costs[notebook.stem] = {"cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "mib": used.ru_maxrss // 2**10}
    print(notebook.stem, costs[notebook.stem], flush=True)
models = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
where = checkout_state() | describe_environment("cpu", 1) | {"cpu": models[0]}
replace_whole(kept, json.dumps({"notebooks": costs, "where": where}, indent=1).encode())
readme = (root / "README.md").read_text(encoding="utf-8")
for name, cost in costs.items():
    row = re.compile(rf"^(\| \[{name}\]\([^)]+\) \| [^|]+ \|).*$", re.MULTILINE)
    readme = row.sub(rf"\g<1> {cost['cpu_seconds']:.0f} s | {cost['mib'] / 1024:.1f} GiB |", readme)
head = "| notebook | question | CPU time | memory |\n|---|---|---|---|\n"
replace_whole(root / "README.md", re.sub(r"\| notebook \| question \|.*\n\|---.*\n", head, readme).encode())
