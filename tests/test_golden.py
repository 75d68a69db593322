"""Numerics change only with a raised `version`: the metrics of a tiny run of each family are stored here.

`python tests/test_golden.py` rewrites them. Raise the family's `version` first, so that no stored run is stale.
"""

import json
from pathlib import Path

import pandas as pd
import pytest
from stored_training import CONFIGS

KEPT = Path(__file__).parent / "golden"
GOLDEN = {"energy": CONFIGS["mined negatives, EMA"], "energy_stock": CONFIGS["soft labels, kept weights"]} | {
    "ranking": CONFIGS["ranking"]
}
TOLERANCE = 1e-3  # relative difference of a few float32 steps across machines


def measured(name, folder):
    """Version and metrics of a tiny run, as plain data."""
    config = GOLDEN[name]
    metrics = config.train(folder).metrics
    return {"version": config.version, "metrics": json.loads(metrics.to_json(orient="split", double_precision=15))}


@pytest.mark.parametrize("name", GOLDEN)
def test_numerics_change_only_with_the_version(name, tmp_path):
    kept, now = json.loads((KEPT / f"{name}.json").read_text()), measured(name, tmp_path)
    refresh = "then run: python tests/test_golden.py"
    assert kept["version"] == now["version"], f"the version of {name} was raised: {refresh}"
    tables = [pd.DataFrame(**each["metrics"]) for each in (kept, now)]
    try:
        pd.testing.assert_frame_equal(*tables, rtol=TOLERANCE, atol=1e-6, check_dtype=False)
    except AssertionError as error:
        owner = type(GOLDEN[name]).__name__
        pytest.fail(f"numerics changed: raise `version` of {owner}, {refresh}\n{error}")


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    KEPT.mkdir(exist_ok=True)
    for each in GOLDEN:
        with TemporaryDirectory() as workdir:
            (KEPT / f"{each}.json").write_text(json.dumps(measured(each, Path(workdir)), indent=1) + "\n")
