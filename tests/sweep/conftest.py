"""What the tests of sweeps share."""

import pytest
from trivial_sweep import TrivialSweep


@pytest.fixture
def trivial(tmp_path) -> TrivialSweep:
    """A sweep of a trivial notebook in an empty folder."""
    return TrivialSweep(tmp_path)
