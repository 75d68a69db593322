"""Where every line of the ANM checklist is measured: a column, a figure, a check or a finding that exists.

What the list says is looked up, not trusted: `missing` finds the instruments that nothing in the package, the tests,
the notebooks or a run's columns answers to.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Literal

import pandas as pd

from anm_nb.analysis.signatures import SIGNATURES
from anm_nb.files import project_root

Kind = Literal["column", "figure", "check", "finding"]


@dataclass(frozen=True)
class Instrument:
    """What a line of the checklist asks to be looked at, and where that is.

    `where` is a column of a run's metrics; the name of a doctor's signature; or, for figures and checks, a function of
    the package ("anm_nb.module.function"), a test ("tests/file.py::function") or a notebook with a figure ("10_name").
    """

    section: str
    what: str
    kind: Kind
    where: str

    def exists(self, metrics_columns: Collection[str]) -> bool:
        """Whether there is something at `where`."""
        if self.kind == "column":
            return self.where in metrics_columns
        if self.kind == "finding":
            return self.where in {signature.name for signature in SIGNATURES}
        if "::" in self.where:
            file, _, function = self.where.partition("::")
            return function in _functions(project_root() / file)
        if self.where.startswith("anm_nb."):
            return callable(_named(self.where))
        return _has_figure(project_root() / "notebooks" / f"{self.where}.ipynb")


def missing(instruments: Iterable[Instrument], metrics_columns: Collection[str]) -> list[Instrument]:
    """The instruments that do not exist; `metrics_columns` are those that runs record, of all tasks and negatives."""
    return [instrument for instrument in instruments if not instrument.exists(metrics_columns)]


def table(instruments: Iterable[Instrument] | None = None) -> pd.DataFrame:
    """Instruments (by default all) as rows, in the checklist's order."""
    rows = [astuple(instrument) for instrument in (INSTRUMENTS if instruments is None else instruments)]
    return pd.DataFrame(rows, columns=[field.name for field in fields(Instrument)]).set_index(["section", "what"])


@cache
def _functions(file: Path) -> frozenset[str]:
    if not file.exists():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def _named(path: str) -> object:
    """The object at a dotted path, attributes of classes included; None where there is none."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name, None)
        return found
    return None


def _has_figure(notebook: Path) -> bool:
    if not notebook.exists():
        return False
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return any("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def _of_section(section: str, *rows: tuple[str, Kind, str]) -> tuple[Instrument, ...]:
    return tuple(Instrument(section, *row) for row in rows)


RECORDER, MINER, NEGATIVES, TRAIN, TRAIN_OPTIONS, LANDSCAPE, SCHEDULE, SIMPLEX = (
    f"tests/energy/test_{name}.py"
    for name in ("recorder", "miner", "negatives", "train", "train_options", "landscape", "schedule", "constraints")
)

INSTRUMENTS: tuple[Instrument, ...] = (
    *_of_section(
        "A",
        ("margin m = E⁻ − E⁺, before the update", "column", "margin_mean"),
        ("margins are those before the update", "check", f"{TRAIN}::test_margins_are_those_before_the_update"),
        ("contrastive loss log(1 + e^−m)", "column", "loss_con"),
        ("its gradients ±σ(−m)", "check",
         "tests/energy/test_losses.py::test_info_nce_and_its_gradients_are_the_closed_forms"),
        ("1: hardness p_hard", "column", "p_hard"),
        ("1: p_hard high early, then dropping", "check", "10_anm_vs_corruption"),
        ("2: margin percentile 25", "column", "margin_q25"),
        ("2: margin percentile 50", "column", "margin_q50"),
        ("2: margin percentile 75", "column", "margin_q75"),
        ("2: mean margin grows", "check", "10_anm_vs_corruption"),
        ("2: histogram shifts right", "figure", "10_anm_vs_corruption"),
        ("3: loss falls faster than with corruption", "check", "10_anm_vs_corruption"),
        ("3: two runs of one seed and the same batches", "check",
         "10_anm_vs_corruption"),
    ),
    *_of_section(
        "B",
        ("objective E − λ‖y − y⁺‖² over the set", "check", "anm_nb.energy.miner.mine"),
        ("projection onto ℓ₂ and ℓ∞ balls", "check",
         "tests/energy/test_constraints.py::test_projection_onto_a_ball_is_the_nearest_feasible_point"),
        ("projection onto the masked simplex", "check",
         f"{SIMPLEX}::test_every_group_is_the_root_of_its_own_equation_and_its_vertex_the_nearest"),
        ("1: Armijo's rule at every accepted step", "check",
         f"{MINER}::test_every_accepted_step_meets_armijo_and_descent_is_monotone"),
        ("1: how far the worst accepted step is below the bound", "column", "armijo_slack"),
        ("1: accepted steps", "column", "miner_accepted"),
        ("1: backtracks", "column", "miner_backtracks"),
        ("1: hits of the backtrack limit", "column", "miner_limit_hits"),
        ("1: cut before they ended", "column", "miner_cut"),
        ("1: the limit hit often", "finding", "unstable miner"),
        ("1: energy at the start", "column", "e_start"),
        ("1: energy of the mined negative", "column", "e_mined"),
        ("1: energy lost by mining", "column", "mined_drop"),
        ("1: energy along the inner path", "figure", "12_miner_convergence"),
        ("1: mined downhill, not up", "finding", "mined toward higher energy"),
        ("2: projected gradient mapping", "column", "gm_norm"),
        ("2: stationary to tol", "column", "miner_converged"),
        ("2: early stop at tol", "check", f"{MINER}::test_a_stationary_example_stops_early_and_only_with_a_tolerance"),
        ("3: feasibility residual", "column", "feasibility_residual"),
        ("4: distance from the truth", "column", "wrongness"),
        ("4: distance of the data's own scale", "finding", "miner off the data scale"),
        ("4: nearer than δ, and given up", "column", "too_close"),
        ("4: new starts", "column", "miner_restarts"),
        ("4: δ enforced, without an endless loop", "check",
         f"{MINER}::test_wrongness_is_kept_and_points_that_cannot_keep_it_are_marked_not_looped_on"),
        ("5: mined with the EMA, loss with the network", "check",
         f"{TRAIN}::test_the_miner_is_given_the_average_and_stock_the_model"),
        ("5: no gradient through the miner", "check",
         f"{MINER}::test_mining_leaves_no_gradient_and_no_change_in_the_weights"),
        ("5: gradient in the EMA weights", "finding", "gradient in the EMA weights"),
    ),
    *_of_section(
        "C",
        ("shared-ε residual", "check", "anm_nb.energy.probes.shared_noise_residual"),
        ("shared-ε residual of a training's own pairs", "column", "shared_noise_residual"),
        ("what rounding may make of it", "column", "shared_noise_rounding"),
        ("a second noising stops a training with probes", "check",
         "tests/energy/test_train_options.py::test_a_second_noising_is_found_by_the_probes"),
        ("zero up to rounding when shared", "check",
         f"{SCHEDULE}::test_shared_noise_leaves_no_residual_and_a_second_draw_does"),
        ("exactly one noising of the negative, counted", "check", "anm_nb.energy.probes.noisings"),
        ("exactly one noising of the negative, in training", "check",
         f"{TRAIN_OPTIONS}::test_a_second_noising_is_found_by_the_probes"),
        ("noising twice is refused", "check", f"{SCHEDULE}::test_noising_twice_raises_whatever_was_done_in_between"),
        ("renoising bug in a run", "finding", "negative noised a second time, or with other noise"),
    ),
    *_of_section(
        "D",
        ("gradient norm of a loss", "check", "anm_nb.energy.probes.gradient_norm"),
        ("signal ratio r", "column", "grad_share_contrast"),
        ("r is that of two plain backward passes", "check",
         f"{TRAIN}::test_the_gradient_share_is_that_of_two_plain_backward_passes"),
        ("r in 0.3 to 0.7 early on", "check", "10_anm_vs_corruption"),
        ("r over training, with its band", "figure", "10_anm_vs_corruption"),
        ("r → 0", "finding", "flat margins and tiny gradient share"),
        ("a weight that keeps r in its band", "check", "anm_nb.energy.train.Balance"),
        ("its trajectory", "column", "contrastive_weight"),
        ("measuring disturbs no training", "check",
         "tests/energy/test_train_options.py::test_probes_do_not_disturb_the_training"),
        ("recording disturbs no training", "check",
         f"{RECORDER}::test_training_is_bit_identical_with_and_without_the_recorder"),
    ),
    *_of_section(
        "E",
        ("1: line scan φ(t)", "check", "anm_nb.energy.landscape.line_scan"),
        ("1: line scan φ(t)", "figure", "13_landscape_line_scans"),
        ("1: barrier max φ − φ(0)", "check", "anm_nb.energy.landscape.barrier"),
        ("1: curvature at the truth φ″(0)", "check", "anm_nb.energy.landscape.curvature"),
        ("1: finite differences agree with the exact one", "check",
         f"{LANDSCAPE}::test_curvature_agrees_with_finite_differences_and_with_the_whole_hessian"),
        ("2: directional derivative at the truth", "check", "anm_nb.energy.landscape.directional_derivative"),
        ("1, 2: at several noise levels", "check", "13_landscape_line_scans"),
        ("1, 2: trends over training", "figure", "13_landscape_line_scans"),
        ("1, 2: strategies side by side", "figure", "13_landscape_line_scans"),
        ("slices of mined and random direction", "figure", "13_landscape_line_scans"),
        ("do they predict the task's error", "figure", "13_landscape_line_scans"),
        ("the numbers of a perfect denoiser are known", "check",
         f"{LANDSCAPE}::test_a_perfect_denoiser_s_landscape_is_known"),
    ),
    *_of_section(
        "F",
        ("50/50 batches", "check", "anm_nb.energy.negatives.Mixed"),
        ("share of mined negatives in a batch", "column", "mined"),
        ("margins before, Δm and ΔL after an update", "figure", "11_anm_within_run"),
        ("updates with one kind from the same weights", "check", "anm_nb.energy.within_run.WithinRunConfig"),
        ("each kind on its own rows only", "check",
         f"{NEGATIVES}::test_mixed_negatives_are_each_kind_in_its_own_rows"),
    ),
    *_of_section(
        "G",
        ("entropy of mined distributions", "check", "anm_nb.energy.constraints.MaskedSimplex.log"),
        ("entropy against that of a uniform choice", "check", "anm_nb.energy.constraints.MaskedSimplex.log"),
        ("mask compliance: invalid mass", "check", "anm_nb.energy.constraints.MaskedSimplex.log"),
        ("entropy keeps a middle band early on", "check", "14_discrete_feasibility"),
        ("entropy over training, its histograms, the band", "figure", "14_discrete_feasibility"),
        ("entropies are scipy's", "check", f"{SIMPLEX}::test_entropies_are_scipy_s_over_groups_with_a_choice"),
        ("invalid mass is about 0 after projection", "check",
         f"{SIMPLEX}::test_projection_onto_simplices_is_feasible_and_idempotent"),
        ("mask compliance: no mass outside, no clue moved", "check",
         "14_discrete_feasibility"),
        ("legitimacy, decisions and rules broken by noise level", "figure",
         "14_discrete_feasibility"),
        ("constraint-violation rate, held-out", "column", "violation_rate"),
        ("the same counted independently, board by board and pair by pair", "check",
         "14_discrete_feasibility"),
        ("violation rate on held-out ε and k over training", "figure", "14_discrete_feasibility"),
        ("violation rate decreases", "check", "14_discrete_feasibility"),
        ("strategies side by side, with their controls", "figure", "14_discrete_feasibility"),
    ),
    *_of_section(
        "H",
        ("inner steps with Armijo and projection", "check", "anm_nb.energy.miner.MinerConfig"),
        ("mined with the EMA, detached", "check",
         f"{MINER}::test_mining_leaves_no_gradient_and_no_change_in_the_weights"),
        ("inner steps, EMA and learning rate in training", "figure", "12_miner_convergence"),
        ("mean margin on dev, held-out k and ε", "column", "dev_margin_mean"),
        ("dev pairs ordered wrongly", "column", "dev_p_hard"),
        ("dev pairs seen by no training step", "check",
         f"{TRAIN}::test_held_out_problems_are_the_same_for_every_method_and_seen_by_no_step"),
        ("dev order better than the baseline's", "check", "10_anm_vs_corruption"),
    ),
    *_of_section(
        "I",
        ("snippet 1: shared-noise invariant", "check",
         f"{RECORDER}::test_snippet_1_a_second_noising_leaves_the_rounding_behind"),
        ("snippet 2: no gradient through the miner", "check",
         f"{RECORDER}::test_snippet_2_gradients_reach_the_weights_in_training_and_no_others"),
        ("snippet 3: gradient share", "check",
         f"{RECORDER}::test_snippet_3_the_share_is_that_of_plain_backward_passes"),
        ("snippet 4: monotonicity and backtracks", "check",
         f"{RECORDER}::test_snippet_4_steps_are_accepted_by_armijos_rule_and_counted"),
        ("all four, dropped into one's own trainer", "check", "anm_nb.energy.probes.Recorder"),
    ),
    *_of_section(
        "J",
        ("the task's own metric, held-out", "column", "mse"),
        ("learning curves, first 20 % apart", "figure", "anm_nb.analysis.figures.learning_curves"),
        ("faster early improvement", "check", "10_anm_vs_corruption"),
        ("area under the early learning curve", "check", "anm_nb.analysis.tables.early_area"),
        ("final score", "check", "10_anm_vs_corruption"),
        ("methods side by side", "figure", "10_anm_vs_corruption"),
        ("higher final dev margins", "check", "10_anm_vs_corruption"),
        ("lower violation rate", "column", "violation_rate"),
        ("lower violation rate than the baseline's", "check", "14_discrete_feasibility"),
        ("barriers consistently higher", "figure", "13_landscape_line_scans"),
    ),
    *_of_section(
        "K",
        ("flat margins and tiny r", "finding", "flat margins and tiny gradient share"),
        ("unstable miner (many backtracks, NaN)", "finding", "unstable miner"),
        ("too-easy negatives", "finding", "too-easy negatives"),
        ("loss saturated by them", "finding", "contrastive loss saturated"),
        ("uniformly raised energies", "finding", "energies rise uniformly"),
        ("E⁺ trend", "column", "e_pos"),
        ("E⁻ trend", "column", "e_neg"),
        ("E⁺ and E⁻ over training", "figure", "10_anm_vs_corruption"),
        ("squared-norm head: gradient collapse", "finding", "gradient collapse"),
        ("fixes as changes of parameters", "check", "anm_nb.analysis.doctor.apply"),
    ),
    *_of_section(
        "legitimacy",
        ("optimal margin m*", "column", "optimal_margin_mean"),
        ("m* is the margin of the energy whose score is ε", "check",
         f"{SCHEDULE}::test_optimal_margin_is_the_margin_of_the_energy_whose_score_is_the_noise"),
        ("share of pairs with m* < 0", "column", "illegitimate_fraction"),
        ("mostly illegitimate", "finding", "mostly illegitimate negatives"),
        ("most negatives legitimate at the end", "check", "10_anm_vs_corruption"),
        ("miner orthogonal to ε: m* > 0", "check",
         f"{MINER}::test_the_optimal_energy_makes_the_document_s_miner_illegitimate_and_the_orthogonal_one_legitimate"),
        ("a perfect model's p_hard, free and orthogonal", "check",
         f"{MINER}::test_the_optimal_energy_makes_the_document_s_miner_illegitimate_and_the_orthogonal_one_legitimate"),
        ("soft label σ(m*)", "check", "anm_nb.energy.losses.soft_info_nce"),
    ),
)  # fmt: skip
