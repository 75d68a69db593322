"""What the instruments of a training cost beside its steps (ANM checklist, sections A to D and I)."""

from __future__ import annotations

import time

import pandas as pd

from anm_nb.config import ParameterError
from anm_nb.energy.train import EnergyConfig
from anm_nb.training.learner import Measurement, resolve_device
from anm_nb.training.loop import Training
from anm_nb.training.run import arithmetic
from anm_nb.training.timing import fresh_training


def instrument_seconds(config: EnergyConfig, rounds: int = 10) -> pd.DataFrame:
    """Seconds of a step without and with `probes`, and of the instruments of one record: a row a round, taken in turn.

    Columns `step`, `probed_step` and `record`, after three rounds to warm up. A record's evaluation on held-out
    problems is no instrument and not in it. Raises `ParameterError` for a config without negatives, which has none.
    """
    if config.negatives is None:
        raise ParameterError("negatives = none: there is nothing for the instruments of a contrast to read")
    device = resolve_device(config.device)
    with arithmetic(config):
        plain, probed = (
            fresh_training(config.model_copy(update={"probes": probes, "graph": False}), config.seeds[:1], device)
            for probes in (False, True)
        )
        rows = [_round(plain, probed) for _ in range(rounds + 3)]
    return pd.DataFrame(rows[3:])


def _round(plain: Training, probed: Training) -> dict[str, float]:
    kind, inputs = plain.kind(1, recorded=False), [each.learner.inputs(0) for each in (plain, probed)]
    started = time.perf_counter()
    plain.take(inputs[0], kind)
    stepped = time.perf_counter()
    losses = probed.losses(inputs[1], kind)
    computed = time.perf_counter()
    probed.learner.measure_contrast(losses.detail, [Measurement({})])  # type: ignore[attr-defined]
    read = time.perf_counter()
    probed.update(losses, kind)
    updated = time.perf_counter()
    return {
        "step": stepped - started,
        "probed_step": (computed - stepped) + (updated - read),
        "record": read - computed,
    }


def overhead(seconds: pd.DataFrame, config: EnergyConfig) -> float:
    """What all instruments together add to a step, as a share of it, at the frequency of the config's records."""
    medians = seconds.median()
    records = len(config.record_steps()) / config.steps
    return float(
        (seconds["probed_step"] / seconds["step"]).median() - 1 + records * medians["record"] / medians["step"]
    )
