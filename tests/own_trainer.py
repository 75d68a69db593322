"""A trainer as people write it: its own class, schedule, noising, network, EMA and miner, and the recorder's calls.

Nothing of it is this package's but the recorder. `bug` plants one of the mistakes that the recorder is to show.
"""

import copy

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, dim, levels):
        super().__init__()
        self.levels = levels
        self.body = nn.Sequential(nn.Linear(2 * dim + levels, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU())
        self.out = nn.Linear(48, dim)

    def forward(self, x, y, t):
        t = nn.functional.one_hot(t, self.levels).float()
        return self.out(self.body(torch.cat([x, y, t], dim=1))).square().sum(dim=1, keepdim=True)  # [b, 1]


class OwnTrainer:
    def __init__(self, recorder=None, seed=0, bug=None, dim=5, levels=8, batch=64):
        self.rng = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # as people do
        self.recorder, self.bug, self.batch, self.dim = recorder, bug, batch, dim
        self.teacher = torch.randn(dim, dim, generator=self.rng)
        alphas = torch.cumprod(1 - torch.linspace(0.02, 0.5, levels), 0)
        self.sqrt_ab, self.sqrt_1mab = alphas.sqrt(), (1 - alphas).sqrt()
        self.net = Net(dim, levels)
        self.ema = copy.deepcopy(self.net).requires_grad_(bug == "gradient into EMA weights")
        self.opt = torch.optim.Adam(self.net.parameters(), lr=3e-3)

    def q_sample(self, y, t, noise):
        return self.sqrt_ab[t, None] * y + self.sqrt_1mab[t, None] * noise

    def randn(self):
        return torch.randn(self.batch, self.dim, generator=self.rng)

    def mine(self, x, y, t, noise, steps=4):
        """Descent on the EMA energy, orthogonal to the noise, in steps so short that it stays near the truth."""

        def across(v):
            return v - (v * noise).sum(1, keepdim=True) / noise.square().sum(1, keepdim=True) * noise

        if self.bug == "negatives equal to the truth":
            return y
        delta, drops, slacks = across((5.0 if self.bug == "mined far off" else 0.5) * self.randn()), [], []
        for _ in range(steps):
            delta.requires_grad_()
            energy = self.ema(x, self.q_sample(y + delta, t, noise), t).squeeze(1)
            grad = across(torch.autograd.grad(energy.sum(), delta)[0])
            size = 0.3 / grad.norm(dim=1).clamp_min(1e-6)
            direction = 1 if self.bug == "mined toward higher energy" else -1
            trial = (delta + direction * size[:, None] * grad).detach()
            with torch.no_grad():
                after = self.ema(x, self.q_sample(y + trial, t, noise), t).squeeze(1)
            slack = energy.detach() - after - 1e-4 * size * grad.square().sum(1)
            lower = slack >= 0
            if self.bug in ("mined toward higher energy", "step accepted without decrease"):
                lower = torch.ones_like(lower)
            drops.append(torch.where(lower, energy.detach() - after, 0.0))
            slacks.append(slack[lower])
            delta = torch.where(lower[:, None], trial, delta.detach())
        if self.recorder and sum(map(len, slacks)):
            self.recorder.score("mined_drop", torch.stack(drops).sum(0).mean())
            self.recorder.score("armijo_slack", torch.cat(slacks).min())
        return y + delta.detach()

    def train_step(self):
        x = self.randn()
        y = torch.tanh(x @ self.teacher)
        t = torch.randint(len(self.sqrt_ab), (self.batch,), generator=self.rng)
        noise = self.randn()
        y_neg = self.mine(x, y, t, noise)
        noised, noised_neg = self.q_sample(y, t, noise), self.q_sample(y_neg, t, noise)
        if self.bug == "second noising":
            noised_neg = self.q_sample(y_neg, t, self.randn())
        noised.requires_grad_()
        e_pos = self.net(x, noised, t)
        score = torch.autograd.grad(e_pos.sum(), noised, create_graph=True)[0]
        critic = self.ema if self.bug == "gradient into EMA weights" else self.net
        e_neg = critic(x, noised_neg, t)
        loss_mse = (score - noise).square().mean()
        logits = torch.cat([-e_pos, -e_neg], dim=1)
        label = 1 if self.bug == "labels flipped" else 0
        weight = float(self.bug.split()[1]) if self.bug and self.bug.startswith("weight") else 0.5
        loss_con = weight * nn.functional.cross_entropy(logits, torch.full((len(x),), label))
        if self.bug == "energies rewarded":
            loss_con = loss_con - 0.1 * (e_pos + e_neg).mean()
        if self.recorder:
            self.recorder.energies(e_pos, e_neg)
            self.recorder.noising(noised, noised_neg, y, y_neg, self.sqrt_ab[t], self.sqrt_1mab[t])
            self.recorder.losses(loss_mse, loss_con, self.net.parameters())
        self.opt.zero_grad()
        (loss_mse + loss_con).backward()
        if self.recorder:
            self.recorder.ema(self.ema.parameters())
            self.recorder.score("score_error", (score - noise).abs().mean())
            self.recorder.next_step()
        self.opt.step()
        with torch.no_grad():
            for averaged, p in zip(self.ema.parameters(), self.net.parameters(), strict=True):
                averaged.lerp_(p, 0.05)

    def train(self, steps):
        for _ in range(steps):
            self.train_step()
        return self
