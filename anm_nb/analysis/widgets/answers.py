"""Answers of a task as small pictures: matrices as they are, boards by their digits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from anm_nb.tasks.base import DenoisingTask
from anm_nb.tasks.sudoku import Sudoku, digits


@dataclass(frozen=True)
class AnswerPictures:
    """How answers of a task are drawn: as square arrays, of numbers or, for a board, of digits."""

    task: DenoisingTask

    @property
    def digits(self) -> int:
        """How many digits a cell may hold; 0 where an answer is no board."""
        return self.task.classes if isinstance(self.task, Sudoku) else 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of an answer: those of a square where it fills one, or else a single row."""
        cells = self.task.y_dim // (self.digits or 1)
        side = math.isqrt(cells)
        return (side, side) if side * side == cells else (1, cells)

    def array(self, y: Tensor) -> np.ndarray:
        """One answer y [y_dim] as [rows, columns]: its entries, or the digit with the highest entry of each cell."""
        values = digits(y.unsqueeze(0))[0] if self.digits else y
        return values.reshape(self.shape).numpy()

    def cells(self, mask: Tensor) -> np.ndarray:
        """A mask of entries [y_dim] as one of cells [rows, columns]."""
        return mask.reshape(*self.shape, -1)[..., 0].numpy()

    def limits(self, *answers: np.ndarray) -> tuple[float, float]:
        """Where the colours of such arrays begin and end: 1 and the last digit, or as far below 0 as above."""
        if self.digits:
            return 1.0, float(self.digits)
        reach = max(float(np.abs(each).max()) for each in answers) or 1.0
        return -reach, reach

    @property
    def colours(self) -> str:
        """Matplotlib's colour map: two-sided for numbers, so that 0 is white, one-sided for digits."""
        return "cividis" if self.digits else "RdBu_r"
