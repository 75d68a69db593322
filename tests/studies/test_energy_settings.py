"""Notebook 00 checks what is trained with."""

import pytest

from anm_nb.config import ParameterError
from anm_nb.studies.energy_settings import Sanity


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "adition"}, "unknown task 'adition' (did you mean 'addition'?)"),
        ({"batch": 1}, "batch = 1"),
        ({"seeds": [3, 3]}, "seeds = [3, 3]: each may appear once"),
        ({"steps": 3}, "unknown parameter 'steps'"),
    ],
)
def test_unusable_settings_are_refused_when_they_are_made(given, message):
    with pytest.raises(ParameterError) as refusal:
        Sanity(**given)
    assert message in str(refusal.value)


def test_sanity_checks_what_is_trained_with():
    config = Sanity(size=3, width=16, batch=4, seeds=[2]).config()
    assert (config.size, config.width, config.batch, config.seeds) == (3, 16, 4, (2,))
    assert config.method == "anm"
