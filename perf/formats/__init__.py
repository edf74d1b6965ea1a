"""Benchmarks of the formats of an export, side by side on one machine."""
