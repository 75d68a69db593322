"""Strategies as a parameter cell writes them: options reach the miner, labels tell what differs, slips are refused."""

import pytest

from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.negatives import Anm, AnmOrthogonal, get_negatives
from anm_nb.energy.strategies import Strategies, labelled, strategy_of


class Study(Parameters):
    strategies: Strategies = ("none",)


def test_options_of_the_miner_stand_beside_the_strategy_s_own():
    assert strategy_of({"name": "anm", "eps": 0.5, "ball": "linf"}) == Anm(ball="linf", miner={"eps": 0.5})
    assert strategy_of({"name": "anm", "miner": {"steps": 2}, "eps": 2.0}) == Anm(miner={"steps": 2, "eps": 2.0})
    assert strategy_of({"name": "random", "eps": 0.5}) == get_negatives("random", eps=0.5)
    assert strategy_of("none") is None
    assert strategy_of({"name": "none"}) is None


def test_labels_are_made_of_what_differs():
    given = ["none", "anm", {"name": "anm", "eps": 2.0}, {"name": "random", "eps": 0.5}, "anm_orthogonal"]
    found = labelled(given)
    assert list(found) == ["none", "anm, eps 1.0", "anm, eps 2.0", "random, eps 0.5", "anm_orthogonal"]
    assert found["anm_orthogonal"] == AnmOrthogonal()
    assert list(labelled(["stock", {"name": "anm"}])) == ["stock", "anm"]
    both = [{"name": "anm", "eps": 1.0, "ball": "linf"}, {"name": "anm", "eps": 2.0}]
    assert list(labelled(both)) == ["anm, ball linf, eps 1.0", "anm, ball l2, eps 2.0"]


def test_parameters_keep_what_was_written():
    given = ["none", {"name": "anm", "eps": 0.5}]
    assert Study(strategies=given).model_dump(mode="json") == {"strategies": given}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["stok"], "strategies.0: unknown negative strategy 'stok' (did you mean 'stock'?)"),
        ([{"name": "amn"}], "strategies.0: unknown negative strategy 'amn' (did you mean 'anm'?)"),
        (["anm", {"name": "anm", "epps": 2}], "strategies.1: unknown option of 'anm' 'epps' (did you mean 'eps'?)"),
        ([{"name": "anm", "eps": -1.0}], "strategies.0: miner: eps = -1.0: should be greater than 0"),
        ([{"eps": 1.0}], "write a name, or a name with options"),
        ([3], "strategies.0: 3: write a name"),
        ([{"name": "none", "eps": 1.0}], "unknown negative strategy 'none'"),
        (["anm", "anm"], "strategies = ['anm', 'anm']: each may appear once"),
        (["anm", {"name": "anm", "eps": 1.0}], "each may appear once"),
        ([], "strategies = []: needs at least 1 item(s)"),
    ],
)
def test_slips_are_refused(given, message):
    with pytest.raises(ParameterError) as refusal:
        Study(strategies=given)
    assert message in str(refusal.value)
