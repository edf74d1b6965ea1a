"""Domain code for detecting the reentry phase of missile tracks."""

__version__ = "0.1.0"
