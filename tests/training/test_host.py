"""No step waits for the host: captured code reads no value, for every family, strategy and option."""

import pytest
from families import CASES, Own, config_of, energy
from host_waits import HostWait, RefuseHostWaits

from anm_nb.training.loop import Training


def taken(config, seeds, steps=3):
    """Take steps as on a GPU: the first one normally, the others in the mode that refuses waits."""
    training = Training(config.learner(*seeds), host=False)
    for training.step in range(steps):
        inputs, kind = training.learner.inputs(training.step), training.kind(training.step)
        if training.step == 0:  # optimisers initialise their state
            training.take(inputs, kind)
        else:
            with RefuseHostWaits():
                training.take(inputs, kind)
    return training


ALONE = [(name, (0,)) for name in ("energy: anm", "energy: stock on boards", "ranking: routed")]


@pytest.mark.parametrize(("name", "seeds"), [*((name, (0, 1)) for name in CASES), *ALONE])
def test_no_step_waits_for_the_host(name, seeds):
    training = taken(config_of(name, seeds), seeds)
    assert int(training.counter) == 3
    assert (training.failed_at < 0).all()


def test_a_wait_in_a_user_strategy_is_caught():
    with pytest.raises(HostWait, match=r"_local_scalar_dense.* waits for the host"):
        taken(energy(negatives=Own()), (0, 1))


def test_miners_that_may_not_read_values_end_where_those_that_may_do():
    """Only the random draws differ: without reading values, starting points are drawn in every iteration."""
    steps = {"task": "inverse", "size": 3, "steps": 2, "records": 3}
    metrics = []
    for host in (True, False):
        config = energy(negatives={"name": "anm", "miner": {"steps": 2, "delta": 0.0}}, **steps)
        metrics.append(Training(config.learner(0), host=host).run()[0].rows[0])
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True), name
