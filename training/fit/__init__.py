"""Fitting a network: the loop, its processes, where it runs, how it goes on after an interruption."""
