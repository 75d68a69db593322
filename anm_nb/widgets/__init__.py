"""Explorers: small interactive pages over finished runs, for a notebook.

A picker of runs, a second run beside the first, sliders that play, a picture and read-outs; where widgets cannot run, a
still picture of how they opened. Each is called with the run to open with and the one beside it, both optional.
"""

from functools import partial

from anm_nb.widgets.energies import Landscape, Sampling
from anm_nb.widgets.explorer import Explorer, project_runs
from anm_nb.widgets.records import Margins, Routing

MarginExplorer = partial(Explorer, Margins)
LandscapeExplorer = partial(Explorer, Landscape)
RoutingExplorer = partial(Explorer, Routing)
SamplerExplorer = partial(Explorer, Sampling)

__all__ = ["LandscapeExplorer", "MarginExplorer", "RoutingExplorer", "SamplerExplorer", "project_runs"]
