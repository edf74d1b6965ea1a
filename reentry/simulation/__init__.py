"""Simulated flights: seeded generators of track tables in the format of the public data."""

from reentry.simulation.simulate import PROFILES, simulate_file
from reentry.simulation.trapezoid import TrapezoidConfig, simulate_trapezoid, trapezoid_chunks

__all__ = ["PROFILES", "TrapezoidConfig", "simulate_file", "simulate_trapezoid", "trapezoid_chunks"]
