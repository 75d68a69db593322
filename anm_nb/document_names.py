"""Names that the commands of the HRM ranking plan use and this project does not; docs/names.md lists them."""

SWEEP = "is no parameter here; use: anm-nb sweep NAME --out FOLDER"

# What follows the name in a sentence.
DOCUMENT_NAMES: dict[str, str] = {
    "array_len": "is called size here",
    "entropy_reg": "is called entropy_weight here",
    "temperature_init": "is called temperature here",
    "batch_size": "is called batch here",
    "lr": "is encoder_lr and controller_lr here",
    "model": "is no parameter here; notebook 20 trains both, baseline and HRM model",
    "output_csv": SWEEP,
    "results_dir": SWEEP,
}
SAME_NAMES = ("max_inner_iters", "hrm_period", "mask_rate", "train_samples", "epochs", "seeds")
