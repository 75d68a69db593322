"""Hinted sorting: partial-observation sorting where hidden items point at their predecessors in the true order."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks.base import Batch, Kind, TaskOptions, reference_table
from anm_nb.tasks.hint_ceiling import Knowledge, ceiling
from anm_nb.tasks.masked_runs import draw_longest_run, require_longest_run
from anm_nb.tasks.partial_sort import LOWEST, VALUES, PartialSort, known_items, ranks_of
from anm_nb.tasks.ranked import RankingOptions, permutation
from anm_nb.training import seeds

DISTINCT_BITS = 8  # of a code, which tell up to 256 items apart whatever the others are


class HintedSortOptions(RankingOptions):
    """Options of hinted sorting."""

    hint_rate: Annotated[float, Field(ge=0, le=1)] = 1.0  # probability that a hidden item points at its predecessor
    hints: Literal["true", "shuffled"] = "true"  # shuffled: the pointers follow an order that has nothing to do with it
    wrong_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability that a pointer leads to any other item instead
    chain_length: PositiveInt | None = None  # exact length of the longest run of hidden items; None: whatever comes
    code_width: Annotated[int, Field(ge=DISTINCT_BITS, le=1024)] = 16  # signs by which an item is pointed at

    @model_validator(mode="after")
    def _encodable(self) -> HintedSortOptions:
        if self.encoding == "raw" and self.hint_rate > 0:
            raise ParameterError(
                f"encoding = 'raw': has no room for pointers; allowed with hint_rate = {self.hint_rate}: 'scaled'"
            )
        if self.wrong_rate > 0 and (self.hint_rate == 0 or self.hints == "shuffled"):
            raise ParameterError(
                f"wrong_rate = {self.wrong_rate}: there are no true pointers to make wrong with hint_rate = "
                f"{self.hint_rate} and hints = '{self.hints}'; allowed: 0"
            )
        return self


class HintedSort(PartialSort):
    """Partial-observation sorting where each hidden item points, with probability `hint_rate`, at its predecessor.

    The item of rank 0 has none. x is [n, size, 3 + 2·code_width]: partial_sort's two columns, a flag (1 = points), the
    item's code, and the code of the item it points at (0 where it points at none). Codes are random signs, fresh in
    every problem and distinct within it: nothing can be learned about an item from them but who points at it.

    With `hint_rate=0` the extra columns are absent, and without `chain_length` this *is* partial_sort: a generator
    gives the same x, y and known. All else is drawn from a generator derived from it, so that values, order and masks
    are the same at any hint_rate, true or shuffled, and the pointers at a lower rate are among those at a higher one.
    Streams are kept apart by the visible values, as partial_sort's, so that they do not overlap at any options either.

    With `chain_length` the longest run of hidden items in the true order has that length in every problem, and any
    such mask is as likely as any other. (Exactly, not at most: most masks have no long run, so that problems with a
    higher upper limit would soon be the same, and a curve over it flat whatever a model can do.) `hints="shuffled"` is
    the control: pointers of the same form that follow an order drawn independently of the true one.

    With `wrong_rate` each pointer leads, with that probability and looking like any other, to an item that is neither
    its own nor the predecessor, all of them equally likely. What is best possible then is not known: in its place
    stands what would be if somebody took out the wrong pointers. (Not quite a bound, as even a wrong pointer says of
    its item that it is not the first; but who has to find out which are wrong will hardly do as well.)
    """

    name = "hinted_sort"
    metric: ClassVar[str] = "tau_all"
    options: HintedSortOptions
    options_class: ClassVar[type[TaskOptions]] = HintedSortOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.options.hint_rate > 0:
            self.x_dim = 3 + 2 * self.options.code_width
        if self.options.wrong_rate > 0:
            self.ceiling_name = "best possible, wrong pointers taken out"

    @property
    def informed_rate(self) -> float:
        """The fraction of hidden items that have a true pointer: of `hint_rate`, what is neither wrong nor shuffled."""
        return self.options.hint_rate * (1 - self.options.wrong_rate) if self.options.hints == "true" else 0.0

    @property
    def has_closed_form(self) -> bool:
        """Whether `all_pairs_ceiling` is known for these options."""
        return self.informed_rate == 1 or (self.informed_rate == 0 and self.options.chain_length is None)

    def draw(self, n: int, *, generator: torch.Generator, device: str, harder: bool) -> Batch:
        """n problems."""
        values, known = self._draw_values(n, generator=generator, device=device, harder=harder)
        ranks = ranks_of(values)
        source = _derived(generator)
        if self.options.chain_length is not None:
            known = self._draw_visible_ranks(n, ranks.shape[1], source).gather(1, ranks)
        x = self._encoded(values, known)
        if self.options.hint_rate > 0:
            x = torch.cat([x, self._draw_hints(ranks, known, source)], dim=-1)
        return Batch(x, ranks, known)

    def pointers(self, batch: Batch) -> Int[Tensor, "n items"]:
        """The item that each item points at, −1 where it points at none, as x shows it."""
        if self.options.hint_rate == 0:
            return torch.full_like(batch.y, -1)
        own, shown = batch.x[..., 3:].split(self.options.code_width, dim=-1)
        return torch.where(batch.x[..., 2] > 0, (shown @ own.mT).argmax(dim=-1), -1)  # signs agree most with themselves

    def chains(self, batch: Batch) -> tuple[Int[Tensor, "n items"], Int[Tensor, "n items"]]:
        """For each item the one at which the chain of pointers from it ends, and the number of pointers to there."""
        return _followed(self.pointers(batch))

    def solve(self, batch: Batch) -> Float[Tensor, "n items"]:
        """Chains of pointers, each put right after the visible item where it ends.

        A chain that ends at a hidden one stands at the median of the values not seen, or first where every hidden item
        but that of rank 0 has a pointer. With hint_rate 1 these scores are the best possible; with less, not quite.
        """
        ends, lengths = self.chains(batch)
        starts = super().solve(batch)
        if self.options.hint_rate == 1:
            starts = torch.where(known_items(batch), starts, 1.0 - LOWEST)
        return starts.gather(1, ends) - lengths / (lengths.shape[1] + 1)

    def all_pairs_ceiling(self, *, harder: bool = False) -> float:
        """The highest expected τ over all pairs where it has a closed form.

        With all hints it is 1: only the item of rank 0 can be hidden without a pointer, so that every chain is known to
        follow a visible item or to come first. Without information in pointers, and with any mask as likely as any
        other, it is partial_sort's. Raises `ParameterError` for other options: `ceilings` has them problem by problem.
        """
        if not self.has_closed_form:
            raise ParameterError(
                f"hint_rate = {self.options.hint_rate}, hints = '{self.options.hints}', "
                f"wrong_rate = {self.options.wrong_rate}, chain_length = {self.options.chain_length}: "
                "the mean ceiling has no closed form; average `ceilings` over problems. "
                "Allowed: hint_rate = 1, or 0 (or shuffled hints) with chain_length = None"
            )
        return 1.0 if self.informed_rate == 1 else super().all_pairs_ceiling(harder=harder)

    def ceilings(self, batch: Batch) -> Float[Tensor, "n 2"]:
        """Each problem's highest expected τ over all pairs, exact: that of the best ranking, and its upper bound.

        The bound is what the likelier order of every single pair would give; see `hint_ceiling`. Wrong pointers are
        taken out before.
        """
        rate, chain_length = self.informed_rate, self.options.chain_length
        problems = self._knowledge(batch)
        found = [ceiling(problem, hint_rate=rate, chain_length=chain_length) for problem in problems]
        return torch.tensor(found, dtype=torch.float64, device=batch.y.device).reshape(-1, 2)

    def _knowledge(self, batch: Batch) -> list[Knowledge]:
        """What each problem shows; shuffled pointers show nothing, and wrong ones are none."""
        known, values = known_items(batch), self.values(batch)
        pointers = self.pointers(batch)
        right = batch.y.gather(1, pointers.clamp(min=0)) == batch.y - 1
        ends, _ = _followed(torch.where(right & (self.informed_rate > 0), pointers, -1))
        lengths = torch.zeros_like(batch.y).scatter_add_(1, ends.to(batch.y.device), torch.ones_like(batch.y))
        shown = []
        for seen, value, length in zip(known.cpu(), values.cpu(), lengths.cpu(), strict=True):
            order = value[seen].argsort()
            fence = [LOWEST - 1, *value[seen][order].tolist(), LOWEST + VALUES]
            unseen = tuple(above - below - 1 for below, above in pairwise(fence))
            tails = (length[seen][order] - 1).tolist()
            shown.append(Knowledge(unseen, tuple(tails), tuple(length[~seen & (length > 0)].tolist())))
        return shown

    def _predictions(self, batch: Batch, generator: torch.Generator) -> dict[tuple[str, Kind], Tensor]:
        predictions = super()._predictions(batch, generator)
        predictions["value, hidden ones at the median", "classical"] = super().solve(batch)
        predictions["chains of pointers", "classical"] = self.solve(batch)
        return predictions

    def _ceilings(self, batch: Batch, harder: bool) -> dict[str, tuple[float, float, float]]:
        """Over all pairs, where there is no closed form: the mean over the batch of exact values, with its interval."""
        if self.has_closed_form:
            return super()._ceilings(batch, harder)
        table = reference_table({("best possible", "ceiling"): {"tau_all": self.ceilings(batch)[:, 0]}})
        value, low, high = table[["value", "low", "high"]].to_numpy(dtype=float)[0].tolist()
        return {"tau_obs": (1.0, 1.0, 1.0), "tau_all": (value, low, high)}

    def _require_items(self, size: int) -> None:
        super()._require_items(size)
        if self.options.chain_length is not None:
            seen = self.visible(size)
            require_longest_run(self.options.chain_length, hidden=size - seen, visible=seen)

    def _draw_visible_ranks(self, n: int, size: int, source: torch.Generator) -> Bool[Tensor, "n items"]:
        """Masks by rank (True = visible)."""
        device, seen, longest = str(source.device), self.visible(size), self.options.chain_length
        if longest is None:
            return torch.rand(n, size, generator=source, device=device).argsort(dim=1) < seen
        return draw_longest_run(n, hidden=size - seen, visible=seen, longest=longest, generator=source, device=device)

    def _draw_hints(
        self, ranks: Int[Tensor, "n items"], known: Bool[Tensor, "n items"], source: torch.Generator
    ) -> Float[Tensor, "n items features"]:
        """The columns after partial_sort's: flags, codes and codes pointed at."""
        n, items = ranks.shape
        chosen = torch.rand(n, items, generator=source, device=ranks.device) < self.options.hint_rate
        codes = _draw_codes(n, items, self.options.code_width, source)
        if self.options.hints == "shuffled":
            ranks = self._draw_other_ranks(known, source)
        points = chosen & ~known & (ranks > 0)
        targets = (ranks - 1).clamp(min=0)
        if self.options.wrong_rate > 0:
            targets = torch.where(*self._draw_wrong(ranks, source), targets)
        led_to = permutation(ranks).gather(1, targets)
        shown = codes.gather(1, led_to.unsqueeze(-1).expand_as(codes)) * points.unsqueeze(-1)
        return torch.cat([points.unsqueeze(-1).float(), codes, shown], dim=-1)

    def _draw_wrong(
        self, ranks: Int[Tensor, "n items"], source: torch.Generator
    ) -> tuple[Bool[Tensor, "n items"], Int[Tensor, "n items"]]:
        """Which pointers are wrong, and the ranks of the items they lead to: any but its own and the one before."""
        wrong = torch.rand(ranks.shape, generator=source, device=ranks.device) < self.options.wrong_rate
        last = ranks.shape[1] - 1  # of two items both are visible, so that no pointer has to lead anywhere
        others = torch.randint(max(last - 1, 1), ranks.shape, generator=source, device=ranks.device)
        return wrong, torch.where(others < ranks - 1, others, others + 2).clamp(max=last)

    def _draw_other_ranks(self, known: Bool[Tensor, "n items"], source: torch.Generator) -> Int[Tensor, "n items"]:
        """Ranks in a random order that hides its items in runs of the same law, and is otherwise independent."""
        n, size = known.shape
        places = self._draw_visible_ranks(n, size, source).long().argsort(dim=1, descending=True)  # visible ones first
        turns = torch.rand(known.shape, generator=source, device=known.device)
        items = (turns + (~known)).argsort(dim=1)  # visible ones first, either kind in random order
        return torch.empty_like(places).scatter_(1, items, places)


def _followed(
    pointers: Int[Tensor, "n items"],
) -> tuple[Int[Tensor, "n items"], Int[Tensor, "n items"]]:
    """Where the chain of pointers from each item ends, and its length; in a circle, somewhere in it, too long."""
    items = pointers.shape[1]
    ends = torch.where(pointers < 0, torch.arange(items, device=pointers.device), pointers)
    lengths = (pointers >= 0).long()
    for _ in range(items.bit_length()):
        lengths, ends = lengths + lengths.gather(1, ends), ends.gather(1, ends)
    return ends, lengths


def _draw_codes(n: int, items: int, width: int, source: torch.Generator) -> Float[Tensor, "n items width"]:
    """Random signs; within a problem the first DISTINCT_BITS are drawn without replacement."""
    device = source.device
    numbers = torch.rand(n, 2**DISTINCT_BITS, generator=source, device=device).argsort(dim=1)[:, :items]
    bits = (numbers.unsqueeze(-1) >> torch.arange(DISTINCT_BITS, device=device)) & 1
    others = torch.randint(2, (n, items, width - DISTINCT_BITS), generator=source, device=device)
    return 2.0 * torch.cat([bits, others], dim=-1) - 1


def _derived(generator: torch.Generator) -> torch.Generator:
    """A generator seeded by what `generator` would draw next, which it still will: nothing is taken from it."""
    ahead = generator.clone_state()
    seed = int(torch.randint(2**62, (), generator=ahead, device=ahead.device))
    return seeds.generator(seed, "hints", str(ahead.device))
