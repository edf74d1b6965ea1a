"""Fitting a network: the training loop, its worker processes, and resuming after an interruption."""
