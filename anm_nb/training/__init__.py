"""The one training loop: seeds, clipping, EMA, precision, evaluation, checkpoints and exact resume."""
