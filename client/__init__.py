"""Scores tracks through a Triton server."""
