"""Verdicts under the explorers speak of the stored arrays: which record, which seed, which way round."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from anm_nb.analysis.explored_verdicts import margin_verdicts, median_margins, routing_verdicts


def run(trace, records=(3, 2, 3)):
    """Three seeds, the second of which stopped after two records; NaN stands after that."""
    rows = [(seed, step) for seed, count in enumerate(records) for step in range(count)]
    return SimpleNamespace(metrics=pd.DataFrame(rows, columns=["seed", "step"]), trace=trace)


def test_medians_are_of_the_first_and_the_last_record_of_each_seed():
    stopped = [[0, 0, 0], [4, 5, 6], [torch.nan] * 3]
    margins = torch.tensor([[[0.0, 1, 5], [9, 9, 9], [2, 3, 9]], stopped, [[1, 1, 1]] * 3])
    table = median_margins(run({"dev_margins": margins}))
    assert table.to_numpy().tolist() == [[0, 1, 3], [1, 0, 5], [2, 1, 1]]


def test_margins_that_grow_are_supported_and_ones_that_shrink_refuted():
    first, noise = torch.zeros(3, 1, 4), torch.tensor([0.0, 0.1, 0.2]).reshape(3, 1, 1)
    grown = run({"dev_margins": torch.cat([first, first + 1 + noise], 1)}, (2, 2, 2))
    shrunk = run({"dev_margins": torch.cat([first, first - 1 - noise], 1)}, (2, 2, 2))
    up, down = margin_verdicts({"none": grown, "anm": shrunk})
    assert (up.state, down.state) == ("supported", "refuted")
    assert np.isclose(up.estimate, -1.1)


def test_routing_is_judged_at_each_seeds_own_end():
    entropies = torch.full((3, 3, 2), 1.3)
    entropies[0, 2], entropies[1, 1], entropies[2, 2] = 0.5, 0.6, 0.7
    entropies[1, 2] = torch.nan
    tau = torch.zeros(3, 3, 2, dtype=torch.float64)
    tau[:, :, 1] = torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1)
    alphas = torch.ones(3, 3, 1, 2, 5, 4) / 4
    uneven, fell, better = routing_verdicts(run({"entropies": entropies, "tau_obs": tau, "alphas": alphas}))
    assert (uneven.state, fell.state) == ("supported", "supported")
    assert np.isclose(uneven.estimate, 0.6 - np.log(4))
    assert np.isclose(fell.estimate, 0.6 - 1.3)
    assert np.isclose(better.estimate, -0.2)
