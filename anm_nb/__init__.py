"""The package behind the notebooks that test adversarial negative mining and HRM-style routed iteration."""

import sys

if sys.platform == "win32":
    raise ImportError("anm-nb does not run on Windows; install it on Linux, on macOS, or on Windows inside WSL 2")

__version__ = "0.1.0"
