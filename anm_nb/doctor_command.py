"""What `anm-nb doctor` does: print what ails a stored run, and write its parameters with the changes made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anm_nb import terminal
from anm_nb.analysis.doctor import Finding, apply, examine, unexamined
from anm_nb.analysis.prescription import differences
from anm_nb.analysis.signatures import SIGNATURES
from anm_nb.config import ParameterError
from anm_nb.energy.negatives import NegativeStrategy, named_negatives
from anm_nb.energy.train import EnergyConfig
from anm_nb.store import Run
from anm_nb.studies.energy_settings import AnmVsCorruption

# what is written, and how it is used
FLAT = "parameters of notebook 10", "papermill notebooks/10_anm_vs_corruption.ipynb out.ipynb -f {}"
WHOLE = "the whole config", "EnergyConfig.model_validate_json(json.dumps(yaml.safe_load(open('{}'))))"


def visit(run: Run, write_to: Path | None = None, console: Console | None = None) -> None:
    """Print the findings of a run, and write its changed parameters where asked to."""
    console = console or terminal.console()
    metrics, settings = run.metrics, run.settings
    findings = examine(metrics, settings)
    steps, count = metrics["step"].max(), metrics["seed"].nunique()
    seeds = f"{count} seed" if count == 1 else f"{count} seeds"
    console.print(f"run {run.key}: {run.title}, {seeds}, {steps:g} steps", soft_wrap=True, markup=False)
    for finding in findings:
        console.print()
        console.print(_shown(finding))
    console.print()
    console.print(_summary(findings, unexamined(metrics)), soft_wrap=True)
    if write_to is not None:
        _write_changed(findings, settings, write_to, console)


def notebook_parameters(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A run's settings as the parameters of notebook 10; None where these cannot say all of them.

    A strategy whose options are the defaults of one known by another name is called by that: "anm" with
    `orthogonal_to_noise` is "anm_orthogonal".
    """
    try:
        config = EnergyConfig.model_validate_json(json.dumps(settings))
    except ParameterError:  # another family's run, or a user's own strategy
        return None
    strategy = _name_of(config.negatives)
    values = config.model_dump(mode="json")
    values |= {"strategies": [strategy], "seeds": list(config.seeds)}
    weight = config.make_task().contrastive_weight if config.contrastive_weight is None else config.contrastive_weight
    flat = {name: values[name] for name in AnmVsCorruption.model_fields if name in values}
    flat["contrastive_weight"] = weight
    try:
        (meant,) = AnmVsCorruption.from_mapping(flat).configs().values()
    except ParameterError:  # a task that notebook 10 does not compare on
        return None
    same = meant.model_copy(update={"negatives": None}).model_dump()
    asked = config.model_copy(update={"negatives": None, "contrastive_weight": weight}).model_dump()
    options = [each and each.model_dump() for each in (meant.negatives, config.negatives)]
    return flat if same == asked and options[0] == options[1] else None


def _name_of(strategy: NegativeStrategy | None) -> str:
    """The name that gives these options by default, preferably the strategy's own."""
    if strategy is None:
        return "none"
    for name in (strategy.name, *AnmVsCorruption.model_fields["strategies"].default):
        named = named_negatives(name)
        if isinstance(named, type(strategy)) and named.model_dump() == strategy.model_dump():
            return name
    return strategy.name


def _shown(finding: Finding) -> Table:
    """A finding as a heading and three labelled paragraphs."""
    grid = Table.grid(padding=(0, 1))
    grid.title = Text(finding.signature, style="bold red")
    grid.title_justify = "left"
    grid.add_column(style="dim")
    grid.add_column()
    rows = {
        "found in": f"section {finding.section}; confidence {finding.confidence}",
        "evidence": finding.evidence,
        "remedy": finding.remedy,
        "change": finding.changes or "no parameter of this run mends it",
    }
    for label, text in rows.items():
        grid.add_row(label, text)
    return grid


def _summary(findings: Sequence[Finding], missing: Mapping[str, Sequence[str]]) -> str:
    judged = len(SIGNATURES) - len(missing)
    lacking = ", ".join(dict.fromkeys(column for columns in missing.values() for column in columns))
    rest = f", {len(missing)} could not be (missing columns {lacking})" if missing else ""
    if not judged:
        return f"not judged: none of {len(SIGNATURES)} signatures could be examined (missing columns {lacking})"
    return f"{'healthy' if not findings else f'{len(findings)} found'}: {judged} signatures examined{rest}"


def _write_changed(findings: Sequence[Finding], settings: Mapping[str, Any], path: Path, console: Console) -> None:
    """Notebook 10's parameters where the run is one of its, else the whole config; and what differs."""
    changed = apply(findings, settings)
    changes = differences(settings, changed)
    if not changes:
        console.print(f"nothing to change: {path} is not written", soft_wrap=True)
        return
    flat = notebook_parameters(changed)
    kind, use = WHOLE if flat is None else FLAT
    verb = "replaced" if path.exists() else "wrote"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(changed if flat is None else flat, sort_keys=False, allow_unicode=True)
    path.write_text(f"# {kind}: {use.format(path.name)}\n{text}", encoding="utf-8")
    lines = [f"{verb} {path}, {kind}, with", *(f"  {name}: {old} → {new}" for name, (old, new) in changes.items())]
    console.print("\n".join([*lines, f"to be used by {use.format(path)}"]), soft_wrap=True)
