"""Checkpoints: one safetensors file, its small facts in the header, replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts to `path`; a reader sees the old file or the new one, never half of one."""
    partial = path.with_name(path.name + ".partial")
    owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(owned, partial, metadata={"facts": json.dumps(facts)})
    os.replace(partial, path)


def load_checkpoint(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on `device`, and the facts of a checkpoint."""
    with safe_open(path, framework="pt", device=device) as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}, json.loads(  # noqa: SIM118
            stored.metadata()["facts"]
        )
