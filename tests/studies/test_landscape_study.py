"""The study tells of stored weights what the trained energies were, and of a perfect denoiser what its formula says."""

import pandas as pd
import pytest
import torch

from anm_nb.config import ParameterError
from anm_nb.energy.evaluate import kept_steps, trained_energy
from anm_nb.energy.landscape import SCAN_GRID, barrier, curvature, directional_derivative, line_scan
from anm_nb.energy.train import EnergyLearner
from anm_nb.ranking.train import RankingConfig
from anm_nb.store import Run, get_or_train
from anm_nb.studies.landscape_study import (
    DIRECTIONS,
    PLANE,
    HeldOut,
    LandscapeScans,
    PerfectDenoiser,
    curvature_check,
    measured,
    plane_slices,
)

LEVELS = (0, 3, 6)
SMALL = {"size": 2, "width": 8, "batch": 8, "steps": 6, "records": 3, "dev_examples": 5, "seeds": [0, 1]}
SETTINGS = LandscapeScans(**SMALL, strategies=["none", "anm"])


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        yield


@pytest.fixture(scope="module")
def trained(store):
    return SETTINGS.get_or_train()


@pytest.fixture(scope="module")
def tables(trained):
    return measured(trained, LEVELS)


# stored weights


def test_a_loaded_energy_is_the_ema_that_was_measured_at_its_step(monkeypatch, store):
    """Energies of the EMA as the learner itself is handed it at each record, against those of the weights read back."""
    seen = {}
    measure = EnergyLearner.measure

    def watched(self, training, losses):
        noise = self.dev_problem.noise
        energies = training.averaged(self.dev.x, noise.noised(self.dev.y).as_subclass(torch.Tensor), noise.k)
        seen[self.seeds[0], training.step] = energies, self
        return measure(self, training, losses)

    monkeypatch.setattr(EnergyLearner, "measure", watched)
    run = get_or_train(LandscapeScans(**SMALL | {"steps": 7}, strategies=["anm"]).configs()["anm"])
    assert kept_steps(run) == sorted(run.metrics["step"].unique())
    assert len(seen) == 2 * len(kept_steps(run))
    for (seed, step), (expected, learner) in seen.items():
        noise = learner.dev_problem.noise
        for moment in [step, *([None] if step == 7 else [])]:
            energy = trained_energy(run, seed, moment)
            assert torch.equal(energy(learner.dev.x, noise.noised(learner.dev.y), noise.k), expected)
            assert not any(parameter.requires_grad for parameter in energy.parameters())
            assert not energy.training
    first, last = (seen[0, step][0] for step in (0, 7))
    assert not torch.equal(first, last)
    assert not torch.equal(last, seen[1, 7][0])


def test_weights_that_a_run_does_not_have_are_refused(trained):
    with pytest.raises(ParameterError, match=r"step = 4: run \w+ has no weights of it; steps kept: 0, 1, 6"):
        trained_energy(trained["anm"], 0, 4)
    with pytest.raises(ParameterError, match=r"seed = 2: run \w+ has 0, 1"):
        trained_energy(trained["anm"], 2)
    config = SETTINGS.configs()["none"]
    plain = get_or_train(config.model_copy(update={"keep_weights": False}))
    assert kept_steps(plain) == []
    assert trained_energy(plain, 1) is not None
    with pytest.raises(ParameterError, match=r"steps kept: none; train with keep_weights"):
        trained_energy(plain, 0, 6)
    with pytest.raises(ParameterError, match=r"kept no weights; train with keep_weights"):
        measured({"none": plain}, LEVELS)


def test_a_run_of_another_family_is_refused(tmp_path, monkeypatch):
    run = Run(tmp_path)
    monkeypatch.setattr(Run, "summary", {"family": "ranking"})
    monkeypatch.setattr(Run, "config", RankingConfig())
    with pytest.raises(ParameterError, match="its config is RankingConfig, which trains no energy"):
        trained_energy(run, 0)


# the problems


def test_problems_are_the_run_s_held_out_pairs_at_every_level(trained):
    pairs = HeldOut.of(trained["anm"].config, 1, LEVELS)
    learner = trained["anm"].config.learner(1, "cpu")
    assert pairs.noise.k.tolist() == [0] * 5 + [3] * 5 + [6] * 5
    for rows in torch.arange(15).split(5):
        assert torch.equal(pairs.x[rows], learner.dev.x.double())
        assert torch.equal(pairs.y_pos[rows], learner.dev.y.double())
        assert torch.equal(pairs.noise.eps[rows], learner.dev_problem.noise.eps.double())
        assert torch.equal(pairs.negatives(PerfectDenoiser(pairs), "held_out")[rows], learner.dev_negatives.double())
    other = HeldOut.of(trained["none"].config, 1, LEVELS)  # whatever a run was trained with
    assert torch.equal(pairs.y_neg, other.y_neg)
    assert (pairs.noise.optimal_margin(pairs.y_pos, pairs.y_neg) > 0).all()


def test_directions_are_mined_against_the_energy_that_is_looked_at(trained):
    pairs = HeldOut.of(trained["anm"].config, 0, LEVELS)
    model = trained_energy(trained["anm"], 0).double()
    energy, perfect = pairs.energy(model), PerfectDenoiser(pairs)
    for direction in ("mined", "mined_orthogonal"):
        y_neg = pairs.negatives(model, direction)
        assert torch.equal(y_neg, pairs.negatives(model, direction))
        assert not torch.equal(y_neg, pairs.negatives(perfect, direction))
        assert energy(pairs.noised(y_neg)).mean() < energy(pairs.noised(pairs.y_neg)).mean()
    shift = pairs.negatives(perfect, "mined_orthogonal") - pairs.y_pos
    torch.testing.assert_close((shift * pairs.noise.eps).sum(1), torch.zeros(15).double(), atol=1e-6, rtol=0)
    with pytest.raises(ParameterError, match=r"unknown direction 'mind'.*did you mean 'mined'"):
        pairs.negatives(model, "mind")


# the tables


def test_tables_have_a_row_for_every_method_seed_step_direction_and_level(tables):
    numbers, profiles = tables
    keys = ["method", "seed", "step", "direction", "level"]
    assert not numbers.duplicated(keys).any()
    assert len(numbers) == 3 * 2 * 3 * len(DIRECTIONS) * len(LEVELS)
    assert {name: set(numbers[name]) for name in keys} == {
        "method": {"none", "anm", "optimal"},
        "seed": {0, 1},
        "step": {0, 1, 6},
        "direction": set(DIRECTIONS),
        "level": set(LEVELS),
    }
    assert set(numbers.columns) - set(keys) == {
        "barrier", "curvature", "curvature_per_length", "dir_derivative", "distance",
        "optimal_barrier", "optimal_derivative", "illegitimate",
    }  # fmt: skip
    assert list(profiles.columns) == ["level", "t", "value", "method", "seed", "step", "direction"]
    assert len(profiles) == len(numbers) * len(SCAN_GRID)
    assert not numbers.isna().any(axis=None)
    assert (profiles.loc[profiles["t"] == 0, "value"] == 0).all()


@pytest.mark.parametrize("step", [1, 6])
def test_numbers_and_profiles_are_those_of_the_instruments(trained, tables, step):
    """One energy, level by level, in place of all levels together."""
    numbers, profiles = (each[(each["method"] == "anm") & (each["seed"] == 1)] for each in tables)
    model = trained_energy(trained["anm"], 1, step).double()
    for level in LEVELS:
        pairs = HeldOut.of(trained["anm"].config, 1, [level])
        energy, start, end = pairs.energy(model), pairs.noised(pairs.y_pos), pairs.noised(pairs.y_neg)
        profile = line_scan(energy, start, end)
        bend, distance = curvature(energy, start, end), (end - start).norm(dim=1)
        expected = {
            "barrier": barrier(profile, SCAN_GRID),
            "curvature": bend,
            "curvature_per_length": bend / distance.square(),
            "dir_derivative": directional_derivative(energy, start, end),
            "distance": distance,
        }
        of_level = (numbers["step"] == step) & (numbers["direction"] == "held_out") & (numbers["level"] == level)
        found = numbers[of_level].iloc[0]
        assert {name: found[name] for name in expected} == pytest.approx(
            {name: float(values.mean()) for name, values in expected.items()}, rel=1e-9, abs=1e-12
        )
        rows = profiles[(profiles["step"] == step) & (profiles["direction"] == "held_out")]
        rise = (profile - profile[:, SCAN_GRID == 0]).mean(0)
        assert rows[rows["level"] == level].sort_values("t")["value"].to_numpy() == pytest.approx(rise.numpy())


def test_a_perfect_denoiser_stands_beside_with_the_numbers_of_its_formula(trained, tables):
    numbers, profiles = tables
    schedule = HeldOut.of(trained["anm"].config, 0, LEVELS).noise.schedule
    optimal = numbers[numbers["method"] == "optimal"]
    for row in optimal.itertuples():
        assert row.curvature_per_length == pytest.approx(1 / float(schedule.sigma(torch.tensor([row.level]))), rel=1e-6)
        assert row.barrier == pytest.approx(row.optimal_barrier, abs=1e-6)
        assert row.dir_derivative == pytest.approx(row.optimal_derivative, abs=1e-6)
    assert (optimal.groupby(["seed", "direction", "level"])["barrier"].nunique() == 1).all()  # whatever the step
    held_out = numbers[numbers["direction"] == "held_out"]
    assert (held_out.groupby(["seed", "level"])["optimal_barrier"].nunique() == 1).all()  # the same pairs for all
    assert (held_out["illegitimate"] == 0).all()
    ends = profiles[(profiles["method"] == "optimal") & (profiles["direction"] == "held_out") & (profiles["t"] == 1)]
    margins = held_out[held_out["method"] == "optimal"]["optimal_barrier"]
    assert ends["value"].to_numpy() == pytest.approx(margins.to_numpy(), abs=1e-6)


def test_a_perfect_denoiser_has_no_barrier_where_mining_removes_its_noise(tables):
    numbers, _ = tables
    mined = numbers[(numbers["method"] == "optimal") & (numbers["direction"] == "mined") & (numbers["level"] >= 3)]
    assert (mined["barrier"] == 0).all()
    assert (mined["illegitimate"] == 1).all()
    assert (mined["dir_derivative"] < 0).all()


def test_planes_start_from_the_truth_and_are_those_of_the_end(trained):
    slices = plane_slices(trained, 3)
    assert len(slices) == 3 * 2 * len(PLANE["s"]) * len(PLANE["t"])
    assert (slices.loc[(slices["s"] == 0) & (slices["t"] == 0), "value"] == 0).all()
    pairs = HeldOut.of(trained["anm"].config, 1, [3])
    model = trained_energy(trained["anm"], 1).double()
    energy, y_neg = pairs.energy(model), pairs.negatives(model, "mined")
    margin = (energy(pairs.noised(y_neg)) - energy(pairs.noised(pairs.y_pos))).mean()
    at = slices[(slices["method"] == "anm") & (slices["seed"] == 1) & (slices["s"] == 1) & (slices["t"] == 0)]
    assert at["value"].item() == pytest.approx(margin.item())


def test_planes_of_a_perfect_denoiser_are_round_bowls(trained):
    """E* = ‖·‖²/2σ: both directions are as long, so the second differences along s and t are equal."""
    slices = plane_slices(trained, 3)
    rows = slices[(slices["method"] == "optimal") & (slices["seed"] == 0)].set_index(["s", "t"])["value"]
    bends = [rows[1.0, 0.0] - 2 * rows[0.5, 0.0] + rows[0.0, 0.0], rows[0.0, 0.5] + rows[0.0, -0.5]]
    assert bends[0] == pytest.approx(bends[1])
    assert bends[0] > 0


def test_finite_differences_agree_with_the_exact_curvature_at_every_level(trained, tables):
    check = curvature_check(trained, LEVELS)
    assert list(check.columns) == ["method", "level", "exact", "finite", "relative_difference"]
    assert len(check) == 3 * len(LEVELS)
    assert check["relative_difference"].between(0, 1e-2, inclusive="neither").all()
    numbers, _ = tables
    rows = numbers[(numbers["direction"] == "held_out") & (numbers["step"] == 6)]
    expected = rows.groupby(["method", "level"])["curvature_per_length"].mean()
    pd.testing.assert_series_equal(
        check.set_index(["method", "level"])["exact"].sort_index(), expected, check_names=False
    )


# the settings


def test_runs_keep_their_weights_and_differ_in_their_negatives_alone():
    configs = LandscapeScans(**SMALL).configs()
    assert list(configs) == ["none", "stock", "random", "anm", "anm_orthogonal"]
    assert all(config.keep_weights for config in configs.values())
    others = [config.model_dump(exclude={"negatives"}) for config in configs.values()]
    assert all(other == others[0] for other in others)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"noise_levels": [0, 10], "level": 0}, r"noise_levels = \[0, 10\]: should be different levels from 0 to 9"),
        ({"noise_levels": [3, 3]}, r"noise_levels = \[3, 3\]: should be different"),
        ({"noise_levels": [0, 6]}, r"level = 3: should be one of noise_levels = \[0, 6\]"),
        ({"noise_levels": []}, r"noise_levels = \[\]: needs at least 1 item"),
        ({"noise_levels": [-1, 3]}, "noise_levels"),
    ],
)
def test_levels_that_cannot_be_looked_at_are_refused(values, message):
    with pytest.raises(ParameterError, match=message):
        LandscapeScans(**values)
