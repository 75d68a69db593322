"""Explorers: small interactive pages over finished runs, for notebooks.

An explorer has a run picker, an optional second run, sliders that can play, a picture and read-outs. Where widgets
cannot run, it shows a still picture of its initial state. Both runs are optional arguments.
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
