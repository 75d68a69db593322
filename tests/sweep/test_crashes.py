"""Sweeps that are interrupted or killed, as processes: what is finished stays, and nothing else does."""

import random
import signal
import time

import nbformat
import pytest
from trivial_sweep import ended, wait_until


def test_ctrl_c_keeps_what_is_finished_ends_the_rest_and_says_so(trivial):
    trivial.write(base={"pause": 0.0}, cases=[{"n": 1}, {"n": 13}, {"n": 2, "pause": 600.0}, {"n": 3}])
    running = trivial.start("--jobs", "1")
    kernel = trivial.wait_for_kernel(2)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 130, said
    assert "anm-nb: stopped: 1 done, 1 failed, 2 not finished; the same command goes on from there" in said
    assert "Traceback" not in said
    assert trivial.half_written() == []
    assert {name: row["status"] for name, row in trivial.outcomes().items()} == {
        "n=1,pause=0": "done", "n=13,pause=0": "failed",
    }  # fmt: skip
    assert sorted(path.name for path in trivial.out.glob("*.ipynb")) == ["n=1,pause=0.ipynb", "n=13,pause=0.ipynb"]
    wait_until(lambda: ended(kernel), 10)


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_as_if_it_never_was(trivial):
    """Ten SIGKILLs, a restart after each: the same table to the byte, and no case that was recorded ran again."""
    trivial.write(base={"pause": 0.2}, grid={"n": [1, 2, 3, 4, 5, 13], "x": [0.25]})
    code, said = trivial.run("--jobs", "2")
    assert code == 1, said
    expected = (trivial.out / "table.parquet").read_bytes()
    statuses = {name: row["status"] for name, row in trivial.outcomes().items()}
    cells = {name: executed(trivial.out / f"{name}.ipynb") for name in statuses}
    (trivial.folder / "ran").unlink()
    trivial.out = trivial.folder / "killed"
    chance, kills = random.Random(0), 0
    while True:
        recorded, ran = set(trivial.outcomes()), len(trivial.ran())
        running = trivial.start("--jobs", "2")
        if kills < 10:
            kill_at_random(trivial, running, chance)
            kills += 1
        said = running.communicate(timeout=600)[0]
        again = [n for n in trivial.ran()[ran:] if f"n={n}" in recorded]
        assert not again, (kills, said)
        assert recorded <= set(trivial.outcomes())
        for path in trivial.out.glob("*.ipynb"):  # whatever has its name is whole
            assert executed(path) == cells[path.stem]
        if running.returncode == 1:
            break
        assert running.returncode == -signal.SIGKILL, said
    assert kills == 10
    assert {name: row["status"] for name, row in trivial.outcomes().items()} == statuses
    assert (trivial.out / "table.parquet").read_bytes() == expected
    assert trivial.half_written() == []


def kill_at_random(trivial, running, chance: random.Random) -> None:
    """Some time after the sweep has started on its folder; soon enough that ten of them do not see it through."""
    wait_until(lambda: trivial.out.exists() or running.poll() is not None, 120)
    time.sleep(chance.uniform(0, 2.5))
    running.kill()


def executed(path) -> list:
    """Sources and outputs of a notebook, which has to be valid and whole."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    failed = any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert failed or all(cell.execution_count for cell in code)
    return [(cell.source, [output.get("data") for output in cell.outputs]) for cell in code]
