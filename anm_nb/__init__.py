"""Does adversarial negative mining, and does HRM-style routed iteration, really work? The notebooks' package."""

__version__ = "0.1.0"
