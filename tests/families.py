"""Tiny configs of both families: every built-in strategy, every option that a step branches on, every schedule."""

from anm_nb.energy.negatives import Random
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig

BOARD = {"task": "sudoku", "size": 4, "width": 4, "batch": 4, "dev_examples": 4, "task_options": {"pool": 20}}
GRAPH = {"task": "connectivity", "size": 4, "width": 8}
ENERGIES = {
    "none": {"negatives": "none"},
    "stock": {"negatives": "stock", "ema_every": 2, "keep_weights": True},
    "stock as released": {"negatives": {"name": "stock", "form": "released"}},
    "random": {"negatives": "random"},
    "random, orthogonal": {"negatives": {"name": "random", "orthogonal_to_noise": True}},
    "mrncl": {"negatives": "mrncl"},
    "anm": {"negatives": "anm"},
    "anm, linf": {"negatives": {"name": "anm", "ball": "linf"}},
    "anm, spectral steps": {"negatives": {"name": "anm", "miner": {"rule": "barzilai_borwein", "tol": 1e-3}}},
    "anm_orthogonal": {"negatives": "anm_orthogonal"},
    "anm_simplex": {"negatives": "anm_simplex", **GRAPH},
    "anm_simplex_legitimate": {"negatives": "anm_simplex_legitimate", **GRAPH},
    "anm_simplex on boards": {"negatives": "anm_simplex", **BOARD},
    "stock on boards": {"negatives": "stock", **BOARD},
    "stock on graphs": {"negatives": "stock", **GRAPH},
    "soft labels": {"negatives": "anm", "soft_label": True},
    "another task": {"negatives": "stock", "task": "lowrank", "head": "scalar"},
}
RANKINGS = {
    "routed": {},
    "last gradient, by sequence": {"gradient": "last", "deep_supervision": False, "routing": "sequence"},
    "one optimiser": {"two_optimisers": False, "warmup_epochs": 0},
    "pointer": {"loss": "cross_entropy"},
    "soft sort, raw values": {"loss": "soft_sort", "encoding": "raw"},
    "one pass": {"routing": "uniform", "max_inner_iters": 1, "hrm_period": 1},
    "random routing": {"routing": "random", "tied": False},
    "frozen routing": {"trained_routing": False},
    "hints": {"slow_state": False, "task": "hinted_sort"},
}


def energy(seeds=(0,), **options):
    """A tiny energy run of 10 steps."""
    small = {"size": 3, "width": 8, "levels": 4, "dev_examples": 4, "inner_steps": 1}
    steps = {"steps": 10, "batch": 8, "records": 3, "ema_decay": 0.9, "device": "cpu"}
    return EnergyConfig(**small | steps | options, seeds=seeds)


def ranking(seeds=(0,), **options):
    """A tiny ranking run of 9 steps; the third step of each epoch has a smaller batch."""
    small = {
        "size": 6, "width": 8, "n_heads": 2, "controller_width": 4, "max_inner_iters": 3, "hrm_period": 2, "batch": 16,
        "train_samples": 40, "dev_samples": 10, "test_samples": 10, "epochs": 3, "warmup_epochs": 1, "device": "cpu",
    }  # fmt: skip
    return RankingConfig(**small | options, seeds=seeds)


CASES = {f"energy: {name}": (energy, options) for name, options in ENERGIES.items()}
CASES |= {f"ranking: {name}": (ranking, options) for name, options in RANKINGS.items()}


def config_of(name, seeds=(0,), **options):
    """The config of a case."""
    make, own = CASES[name]
    return make(seeds, **own | options)


class Own(Random):
    """A user's strategy that reads a value, which no step on a GPU may do."""

    name = "own"

    def propose(self, problem):
        """Negatives of `Random`."""
        mined = super().propose(problem)
        assert mined.y_neg.norm().item() > 0
        return mined
