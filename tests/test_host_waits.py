"""The mode that refuses host waits catches every kind of them, and nothing else."""

import pytest
import torch
from host_waits import HostWait, RefuseHostWaits

X = torch.arange(6.0).reshape(2, 3)

WAITS = {
    "item": lambda: X[0, 0].item(),
    "float": lambda: float(X.sum()),
    "bool": lambda: bool((X > 2).all()),
    "if": lambda: 1 if X.mean() > 0 else 0,
    "list of one": lambda: X[0].tolist(),
    "numpy": lambda: X.numpy(),
    "nonzero": lambda: X.nonzero(),
    "where of one argument": lambda: torch.where(X > 2),
    "masked selection": lambda: X[X > 2],
    "masked assignment": lambda: X.clone().__setitem__(X > 2, 0.0),
    "masked_select": lambda: X.masked_select(X > 2),
    "equal": lambda: torch.equal(X, X),
    "in a vmap": lambda: torch.vmap(lambda row: row * float(X.max()))(X),
}
FINE = {
    "where": lambda: torch.where(X > 2, X, 0.0),
    "masked_fill": lambda: X.masked_fill(X > 2, 0.0),
    "indices": lambda: X[torch.tensor([1, 0])],
    "gather": lambda: X.gather(1, X.argmax(1, keepdim=True)),
    "gradient": lambda: torch.func.grad(lambda x: x.square().sum())(X),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_is_refused(name):
    with RefuseHostWaits(), pytest.raises(HostWait, match="waits for the host"):
        WAITS[name]()
    assert X.sum().item() == sum(X.flatten().tolist())  # outside, nothing is refused


@pytest.mark.parametrize("name", FINE)
def test_what_stays_on_the_device_passes(name):
    with RefuseHostWaits():
        FINE[name]()
