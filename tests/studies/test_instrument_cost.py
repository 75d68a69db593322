"""The cost of instruments is counted at the frequency at which they are read."""

import pandas as pd
import pytest

from anm_nb.config import ParameterError
from anm_nb.energy.negatives import get_negatives
from anm_nb.energy.train import EnergyConfig
from anm_nb.studies.instrument_cost import instrument_seconds, overhead

CONFIG = EnergyConfig(size=2, width=8, negatives=get_negatives("anm"), steps=100, batch=8, records=10, seeds=(0,))


def test_every_round_times_all_parts():
    seconds = instrument_seconds(CONFIG, rounds=2)
    assert list(seconds.columns) == ["step", "probed_step", "record"]
    assert len(seconds) == 2
    assert (seconds > 0).all().all()


def test_the_overhead_is_the_probes_and_the_share_of_steps_that_are_recorded():
    seconds = pd.DataFrame({"step": [1.0, 2.0], "probed_step": [1.1, 2.2], "record": [3.0, 3.0]})
    records = len(CONFIG.record_steps())
    assert overhead(seconds, CONFIG) == pytest.approx(0.1 + records / 100 * 3 / 1.5)


def test_a_run_without_negatives_has_nothing_to_read():
    with pytest.raises(ParameterError, match="negatives = none"):
        instrument_seconds(CONFIG.model_copy(update={"negatives": None}))
