"""A landing folder with small tracks, and the settings of a pipeline over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.privacy.keys import new_keys
from pipeline.settings import PipelineSettings
from reentry.tracks import write_tracks

HOUR = "2026-12-01T08"
KEYS = "keys.json"


def flat_track(track_id: int, *, steps: int = 20, sensor: int = 7, start: float = 1.7e9, seed: int = 0) -> pd.DataFrame:
    """A labelled track whose altitude rises and falls; its values depend on the id and the seed."""
    random = np.random.default_rng([seed, track_id])
    time = np.arange(steps, dtype=float)
    return pd.DataFrame(
        {
            "timestamp": start + time,
            "track_id": np.int64(track_id),
            "sensor_id": np.int64(sensor),
            "latitude": 10.0 + time / 100 + random.normal(0, 1e-3, steps),
            "longitude": 20.0 + time / 50,
            "altitude": 1e5 * np.sin(np.pi * time / steps) + random.normal(0, 1.0, steps),
            "radiometric_intensity": random.random(steps),
            "reentry_phase": (time > 0.7 * steps).astype(np.int8),
        }
    )


def land(settings: PipelineSettings, name: str, *tables: pd.DataFrame, hour: str = HOUR) -> Path:
    """Write a file of tracks into the landing folder."""
    path = Path(settings.landing) / hour / name
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.concat(tables, ignore_index=True)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        write_tracks(path, table)
    return path


def pipeline_settings(folder: Path, **changes: Any) -> PipelineSettings:
    """Settings with everything in a folder, and new keys."""
    new_keys(folder / KEYS)
    (folder / "landing").mkdir()
    values = {
        "lake": str(folder / "lake"),
        "landing": str(folder / "landing"),
        "pseudonym_keys": f"file:{folder / KEYS}",
    }
    return PipelineSettings(**values | changes)
