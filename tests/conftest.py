"""Tests run with the shapes in signatures checked on every call, and the same examples every time."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(["anm_nb.tasks", "anm_nb.training", "anm_nb.energy", "anm_nb.ranking"], "beartype.beartype")

# Machines differ too much for a deadline; a red run has to be red again when repeated.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")
