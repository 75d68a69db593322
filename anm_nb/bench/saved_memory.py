"""The memory that a training step keeps from its forward for its backward pass, exactly."""

from __future__ import annotations

from torch import Tensor, UntypedStorage
from torch.autograd.graph import saved_tensors_hooks

from anm_nb.training.learner import Learner


class SavedStorages:
    """Collects what autograd saves inside its `with` block, each storage once, however many views of it are saved.

    Storages of `known` tensors (weights, data) are there anyway and not counted. torch does not allow it around
    `torch.func.grad`, and with it an energy's step: there it raises `RuntimeError`.
    """

    def __init__(self, known: list[Tensor]) -> None:
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._kept: dict[int, UntypedStorage] = {}  # held, so that no address is given out twice
        self._hooks = saved_tensors_hooks(self._save, lambda saved: saved)

    def _save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._kept[storage.data_ptr()] = storage
        return tensor

    def __enter__(self) -> SavedStorages:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)

    @property
    def bytes(self) -> int:
        """Bytes of all storages together."""
        return sum(storage.nbytes() for storage in self._kept.values())


def step_bytes(learner: Learner) -> int:
    """Bytes that the losses of a learner's first step keep for their backward pass, its weights not included."""
    with SavedStorages(list(learner.model.parameters())) as saved:
        losses = learner.losses(0, learner.model)
        kept = saved.bytes
    del losses
    return kept
