"""Does adversarial negative mining, and does HRM-style routed iteration, really work? The notebooks' package."""

import sys

if sys.platform == "win32":
    raise ImportError("anm-nb does not run on Windows; install it on Linux, on macOS, or on Windows inside WSL 2")

__version__ = "0.1.0"
