"""Explorers: small interactive pages over finished runs, for a notebook.

A run picker, sliders that play, a picture and read-outs; where widgets cannot run, a still picture of how they opened.
"""

from anm_nb.widgets.landscape import LandscapeExplorer
from anm_nb.widgets.margins import MarginExplorer
from anm_nb.widgets.routing import RoutingExplorer
from anm_nb.widgets.sampler import SamplerExplorer

__all__ = ["LandscapeExplorer", "MarginExplorer", "RoutingExplorer", "SamplerExplorer"]
