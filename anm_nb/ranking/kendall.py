"""Kendall's τ for the ranking family. It is computed on the ground floor, where the tasks score themselves with it."""

from anm_nb.tasks.kendall import index_space_tau, kendall_tau, kendall_tau_numpy

__all__ = ["index_space_tau", "kendall_tau", "kendall_tau_numpy"]
