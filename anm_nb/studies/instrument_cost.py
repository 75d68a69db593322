"""What the instruments of a training cost beside its steps (ANM checklist, sections A to D and I)."""

from __future__ import annotations

import time

import pandas as pd

from anm_nb.config import ParameterError
from anm_nb.energy.contrast import EnergyLosses, contrast_scalars, illegitimate_by_level
from anm_nb.energy.probes import grad_share
from anm_nb.energy.train import EnergyConfig, EnergyLearner
from anm_nb.training.loop import SeedTraining, cpu_threads, resolve_device


def instrument_seconds(config: EnergyConfig, rounds: int = 10) -> pd.DataFrame:
    """Seconds of a step without and with `probes`, and of the instruments of one record: a row a round, taken in turn.

    Columns `step`, `probed_step` and `record`, after three rounds to warm up. A record's evaluation on held-out
    problems is no instrument and not in it. Raises `ParameterError` for a config without negatives, which has none.
    """
    if config.negatives is None:
        raise ParameterError("negatives = none: there is nothing for the instruments of a contrast to read")
    device = resolve_device(config.loop.device)
    with cpu_threads(config.loop.threads):
        plain, probed = (
            SeedTraining(EnergyLearner(each, config.seeds[0], device), config.loop, config.seeds[0], device)
            for each in (config, config.model_copy(update={"probes": True}))
        )
        rows = [_round(plain, probed) for _ in range(rounds + 3)]
    return pd.DataFrame(rows[3:])


def _round(plain: SeedTraining, probed: SeedTraining) -> dict[str, float]:
    started = time.perf_counter()
    plain.update(plain.losses())
    stepped = time.perf_counter()
    losses = probed.losses()
    computed = time.perf_counter()
    _read(losses, probed)
    read = time.perf_counter()
    probed.update(losses)
    updated = time.perf_counter()
    return {
        "step": stepped - started,
        "probed_step": (computed - stepped) + (updated - read),
        "record": read - computed,
    }


def _read(losses: object, training: SeedTraining) -> None:
    """What `EnergyLearner.measure` reads off a step, without its evaluation."""
    assert isinstance(losses, EnergyLosses)
    assert losses.contrast is not None
    assert losses.weighted is not None
    contrast_scalars(losses.contrast)
    grad_share(*losses.weighted, list(training.learner.model.parameters()))
    illegitimate_by_level(losses.contrast)


def overhead(seconds: pd.DataFrame, config: EnergyConfig) -> float:
    """What all instruments together add to a step, as a share of it, at the frequency of the config's records."""
    medians = seconds.median()
    records = len(config.loop.record_steps()) / config.loop.steps
    return float(
        (seconds["probed_step"] / seconds["step"]).median() - 1 + records * medians["record"] / medians["step"]
    )
