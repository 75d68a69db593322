"""The loop of docs/extending.md over a reader's own data, network, schedule and miner, for tests of the recorder."""

import copy
import re
from typing import Any

import torch

from anm_nb.files import project_root

PAGE = (project_root() / "docs" / "extending.md").read_text(encoding="utf-8")
(DROP_IN,) = [each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "recorder = Recorder()" in each]


class Energy(torch.nn.Module):
    """A reader's own network; it knows nothing of noise levels."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.SiLU(), torch.nn.Linear(32, 3))

    def forward(self, x, y):
        return self.body(torch.cat([x, y], dim=1)).square().sum(1)


def run_drop_in(source: str = DROP_IN, uphill: bool = False, steps: int = 400) -> dict[str, Any]:
    """The names that it leaves, among them `recorder` and `net`; `uphill` is a bug in the reader's miner."""
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = Energy()
    ema = copy.deepcopy(net).requires_grad_(False)

    def draw_level(n):
        alpha = 0.1 + 0.8 * torch.rand(n, 1, generator=rng)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def mine(ema, x, y):
        start = (y + torch.randn(y.shape, generator=rng)).requires_grad_()
        before = ema(x, start)
        (gradient,) = torch.autograd.grad(before.sum(), start)
        moved = (start - (-0.01 if uphill else 0.01) * gradient).detach()
        after = ema(x, moved)
        accepted = (after < before) | uphill
        lost = torch.where(accepted, before.detach() - after, 0.0)
        return torch.where(accepted[:, None], moved, start.detach()), lost

    x = torch.randn(steps, 16, 3, generator=rng)
    names = {"loader": [(each, each.tanh()) for each in x], "torch": torch, "F": torch.nn.functional, "net": net}
    names |= {"ema": ema, "optimiser": torch.optim.Adam(net.parameters(), lr=3e-3), "draw_level": draw_level}
    names |= {"energy": lambda net, x, y: net(x, y), "mine": mine}
    exec(source, names)
    return names
