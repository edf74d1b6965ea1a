"""Exports a checkpoint to verified versions in the Triton model repository."""
