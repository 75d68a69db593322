"""Names that the commands of the HRM ranking plan use for what is called otherwise here; docs/names.md lists them."""

DOCUMENT_NAMES: dict[str, str] = {
    "array_len": "array_len is called size here",
    "entropy_reg": "entropy_reg is called entropy_weight here",
    "temperature_init": "temperature_init is called temperature here",
    "batch_size": "batch_size is called batch here",
    "lr": "lr is two parameters here, encoder_lr and controller_lr",
    "model": "model is no parameter here: notebook 20 trains the baseline and the HRM model",
    "output_csv": "output_csv is no parameter here: use `anm-nb sweep NAME --out FOLDER`",
    "results_dir": "results_dir is no parameter here: use `anm-nb sweep NAME --out FOLDER`",
}
