"""Draws ballistic.png: simulated flights, and their intensity as sensors of severity 2 measure it.

Run: python docs/figures/ballistic.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from reentry.simulation import BallisticConfig, ShotConfig, earth, of_severity, simulate_ballistic
from reentry.simulation.ballistic import reentry_phase
from reentry.simulation.flight import fly, launch
from reentry.simulation.shots import draw_shots

KINDS = {
    "least energy": {"lofted": 0.0, "depressed": 0.0, "failed": 0.0, "decoys": 0.0},
    "lofted": {"lofted": 1.0, "depressed": 0.0, "failed": 0.0, "decoys": 0.0},
    "depressed": {"lofted": 0.0, "depressed": 1.0, "failed": 0.0, "decoys": 0.0},
    "decoy": {"lofted": 0.0, "depressed": 0.0, "failed": 0.0, "decoys": 1.0},
    "failed": {"lofted": 0.0, "depressed": 0.0, "failed": 1.0, "decoys": 0.0},
}
RANGE = 3_000_000.0
SEED = 6


def draw(path: Path) -> None:
    """Plot altitude, speed, drag and intensity over time."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True, layout="constrained")
    for number, (kind, shares) in enumerate(KINDS.items()):
        shots = ShotConfig(distance=(RANGE, RANGE), **shares)
        color = f"C{number}"

        drawing, _ = np.random.SeedSequence(SEED, spawn_key=(0,)).spawn(2)  # as `ballistic_chunks` draws its first
        flights = fly(launch(draw_shots(shots, 1, np.random.default_rng(drawing))), 1.0)
        speed = np.linalg.norm(earth.velocity_through_air(flights.position, flights.velocity), axis=0)
        onset = int(np.argmax(reentry_phase(flights)))
        drag = np.maximum(flights.drag, 1e-9) / earth.STANDARD_GRAVITY
        for axis, values in zip(axes.flat[:3], (flights.height / 1e3, speed / 1e3, drag), strict=True):
            axis.plot(flights.time, values, color=color, label=kind, linewidth=1.2)
            axis.plot(flights.time[onset], values[onset], "o", color=color, markersize=5)

        seen = simulate_ballistic(BallisticConfig(tracks=1, seed=SEED, shots=shots, sensors=of_severity(2)))
        time = seen["timestamp"] - 1_731_308_400.0
        axes[1, 1].plot(time, seen["radiometric_intensity"], ".", color=color, markersize=1.5)
    axes[0, 0].set_ylabel("altitude, km")
    axes[0, 1].set_ylabel("speed through the air, km/s")
    axes[1, 0].set(ylabel="deceleration by drag, g", yscale="log", ylim=(1e-6, 200), xlabel="s since launch")
    axes[1, 0].axhline(0.1, color="black", linewidth=0.8, linestyle=":")
    axes[1, 1].set(ylabel="intensity at the sensor, severity 2", yscale="log", xlabel="s since launch")
    axes[0, 0].legend(frameon=False)
    figure.suptitle(f"Shots aimed at {RANGE / 1e3:,.0f} km; a dot marks the onset of reentry (0.1 g on descent)")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
