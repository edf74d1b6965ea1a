"""Simulation of missile flights: seeded generators of labelled tracks in the format of the public data."""

from reentry.simulation.ballistic import BallisticConfig, ballistic_chunks, simulate_ballistic
from reentry.simulation.sensors import SEVERITIES, SensorConfig, of_severity
from reentry.simulation.shots import ShotConfig
from reentry.simulation.simulate import simulate_file
from reentry.simulation.trapezoid import TrapezoidConfig, simulate_trapezoid, trapezoid_chunks

__all__ = [
    "SEVERITIES",
    "BallisticConfig",
    "SensorConfig",
    "ShotConfig",
    "TrapezoidConfig",
    "ballistic_chunks",
    "of_severity",
    "simulate_ballistic",
    "simulate_file",
    "simulate_trapezoid",
    "trapezoid_chunks",
]
