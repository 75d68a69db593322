"""The palette to eyes that see colours otherwise, as simulated by Machado, Oliveira & Fernandes (2009) at severity 1.

Colour differences are distances in CIE L*a*b* (2.3 is just noticeable).
"""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from anm_nb.analysis import style

VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
DAYLIGHT = [0.95047, 1.0, 1.08883]  # D65
# Methods that are drawn in one panel.
TOGETHER = [
    ("none", "stock", "random", "anm", "anm_orthogonal", "optimal"),
    ("none", "stock", "random", "anm", "anm_simplex", "anm_simplex_legitimate"),
    ("baseline", "hrm", "published baseline", "published"),
]


def linear(colour):
    channels = np.array(to_rgb(colour))
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(colour, vision):
    xyz = np.array(TO_XYZ) @ np.clip(np.array(VISION[vision]) @ linear(colour), 0, 1) / DAYLIGHT
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("methods", TOGETHER, ids="+".join)
def test_methods_of_one_panel_are_told_apart_by_colour_or_dashes(methods, vision):
    for one, other in itertools.combinations(methods, 2):
        distance = np.linalg.norm(lab(style.PALETTE[one], vision) - lab(style.PALETTE[other], vision))
        assert distance > 13 or (one in style.LINE_STYLES) != (other in style.LINE_STYLES), (one, other, distance)
