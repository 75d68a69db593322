"""Refuse operations for which the host waits for a device, on any device."""

from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense,  # .item(), float(), int(), bool(), tolist() of one number
    aten.nonzero,
    aten.is_nonzero,
    aten.equal,
    aten.item,
    aten.masked_select,
}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class RefuseHostWaits(TorchDispatchMode):
    """Inside, an operation raises `HostWait` if it needs a value on the host or has a value-dependent shape."""

    def __enter__(self):
        self.patches = ExitStack()
        for name in ("tolist", "numpy", "cpu"):  # on a CPU these read memory without a dispatched operation
            self.patches.enter_context(patch.object(torch.Tensor, name, _refused(name)))
        return super().__enter__()

    def __exit__(self, *error):
        self.patches.close()
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        masked = packet in INDEXED and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if masked or packet in WAITS:
            raise HostWait(f"{function} waits for the host")
        return function(*args, **(kwargs or {}))


class HostWait(RuntimeError):
    """An operation waits for the host."""


def _refused(name):
    def refuse(*_):
        raise HostWait(f"Tensor.{name} waits for the host")

    return refuse
