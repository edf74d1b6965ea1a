"""reentry: marks the reentry phase of missile tracks as it begins."""

__version__ = "0.1.0"
