"""Comparison of two served versions, and drift of the tracks."""
