"""`anm-nb verdict`: tune and confirm mined negatives and their rivals, keep the study, and write docs/results.md."""

from __future__ import annotations

from pathlib import Path

from anm_nb import files
from anm_nb.analysis import anm_verdict
from anm_nb.analysis.anm_verdict_figures import forest
from anm_nb.analysis.reference import place_in, write_between
from anm_nb.config import ParameterError, unknown_name
from anm_nb.studies.verdict_study import AnmVerdict, study
from anm_nb.yaml_file import read_yaml


def keep(profile: str, jobs: int | None) -> Path:
    """Run the study at a profile of params/, or what the store lacks of it; the path of the table that is kept.

    Raises `ParameterError` for a profile that does not exist or values that cannot be used, before any work starts.
    """
    root = files.project_root()
    settings = read_settings(root, profile)
    if jobs is not None:
        settings = settings.model_copy(update={"jobs": jobs})
    page = root / "docs" / "results.md"
    place_in(page, anm_verdict.NAME)
    kept = anm_verdict.keep_verdict(settings, study(settings))
    forest(anm_verdict.comparisons(kept.confirmed)).savefig(kept.folder / f"{anm_verdict.NAME}.png", dpi=160)
    write_between(page, anm_verdict.NAME, anm_verdict.summary(kept))
    return kept.folder / f"{anm_verdict.NAME}.parquet"


def read_settings(root: Path, profile: str) -> AnmVerdict:
    """The study's settings at a profile."""
    name = AnmVerdict.notebook
    values = root / "params" / profile / f"{name}.yaml"
    if not values.exists():
        raise ParameterError(
            unknown_name("profile", profile, [p.parent.name for p in root.glob(f"params/*/{name}.yaml")])
        )
    return AnmVerdict.from_mapping(read_yaml(values))
