"""Making problems: thousands at once against one by one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from anm_nb.bench.plain import plain_module
from anm_nb.tasks import get_task
from anm_nb.tasks.ordering import VALUES, PartialSort
from anm_nb.tasks.sudoku import Sudoku
from anm_nb.tasks.sudoku_pool import shuffled, stored_pool
from anm_nb.training.seeds import generator

SUDOKU_POOL = 100  # puzzles; drawing from a larger pool costs the same


class Generation:
    """Two generators that draw alike, and a number of problems."""

    def __init__(self, device: str, tiny: bool, count: int) -> None:
        self.device, self.count = device, 3 if tiny else count
        self.ours_from, self.plain_from = (generator(0, "data", device) for _ in range(2))
        ranking = plain_module("plain_ranking")
        self.one_hot_boards, self.partial_sorts = ranking.one_hot_boards, ranking.partial_sorts
        self.inverses = plain_module("plain_energy").inverses


class MakingInverses(Generation):
    """2048 matrices of 20×20 and their inverses."""

    def __init__(self, device: str, tiny: bool) -> None:
        super().__init__(device, tiny, 2048)
        self.size = 4 if tiny else 20
        self.task = get_task("inverse", size=self.size)

    def ours(self) -> Mapping[str, Tensor]:
        """The problems."""
        batch = self.task.sample(self.count, generator=self.ours_from, device=self.device)
        return {"x": batch.x, "y": batch.y}

    def plain(self) -> Mapping[str, Tensor]:
        """The problems."""
        x, y = self.inverses(self.count, self.size, self.plain_from)
        return {"x": x, "y": y}


class MakingSudokus(Generation):
    """64 puzzles drawn from a pool."""

    def __init__(self, device: str, tiny: bool) -> None:
        super().__init__(device, tiny, 64)
        pool = 3 if tiny else SUDOKU_POOL
        self.task = Sudoku(pool=pool)
        self.boards = stored_pool(pool, self.task.options.pool_seed, self.task.options.givens)

    def ours(self) -> Mapping[str, Tensor]:
        """The problems."""
        batch = self.task.sample(self.count, generator=self.ours_from, device=self.device)
        return {"x": batch.x, "y": batch.y}

    def plain(self) -> Mapping[str, Tensor]:
        """The problems."""
        rows = shuffled(len(self.boards.puzzles), self.count, self.plain_from)
        puzzles, solutions = self.boards.puzzles[rows], self.boards.solutions[rows]
        return {"x": self.one_hot_boards(puzzles), "y": self.one_hot_boards(solutions)}


class MakingArrays(Generation):
    """1000 arrays of 20 items, half of them hidden."""

    def __init__(self, device: str, tiny: bool) -> None:
        super().__init__(device, tiny, 1000)
        self.task = PartialSort(size=20)

    def ours(self) -> Mapping[str, Tensor]:
        """The problems."""
        batch = self.task.sample(self.count, generator=self.ours_from, device=self.device)
        assert batch.known is not None
        return {"x": batch.x, "ranks": batch.y, "known": batch.known}

    def plain(self) -> Mapping[str, Tensor]:
        """The problems."""
        source = self.plain_from
        keys, turns = (torch.rand(self.count, n, generator=source, device=self.device) for n in (VALUES, 20))
        x, ranks, known = self.partial_sorts(keys, turns, self.task.visible(20))
        return {"x": x, "ranks": ranks, "known": known}
