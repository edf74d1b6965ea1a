"""Fuzz tests: odd and damaged files are refused in one line or read as by an independent reader.

`make fuzz` runs many more cases.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from reentry.tracks import csv_records, sources
from tests import fuzz

CASES = int(os.environ.get("FUZZ_CASES", "100"))
SEED = os.environ.get("FUZZ_SEED", "0")


def run(case: Callable[[random.Random, Path], bool], folder: Path) -> float:
    """Run all cases and return the fraction of files that were read."""
    read = 0
    for number in range(CASES):
        try:
            read += case(random.Random(f"{SEED} {number}"), folder)
        except BaseException as error:
            error.add_note(f"case {number} of seed {SEED}, see {folder}")
            raise
    return read / CASES


def test_csv_files_are_refused_or_read_as_python_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def case(rng: random.Random, folder: Path) -> bool:
        path = folder / "t.csv"
        path.write_bytes(fuzz.csv_file(rng))
        # Small blocks and chunks put their boundaries at many positions.
        monkeypatch.setattr(csv_records, "BLOCK_BYTES", rng.choice([16, 300, 2**20]))
        monkeypatch.setattr(sources, "CHUNK_ROWS", rng.choice([3, 2**18]))
        return fuzz.assert_read_as(path, fuzz.read_csv(path.read_bytes()))

    assert 0.5 < run(case, tmp_path) < 1.0


def test_parquet_files_are_refused_or_read_as_they_were_written(tmp_path: Path) -> None:
    def case(rng: random.Random, folder: Path) -> bool:
        path = folder / "t.parquet"
        data, expected = fuzz.parquet_file(rng)
        path.write_bytes(data)
        return fuzz.assert_read_as(path, expected)

    assert 0.5 < run(case, tmp_path) < 1.0


def test_damaged_parquet_files_are_refused_or_read_as_pyarrow_reads_them(tmp_path: Path) -> None:
    def case(rng: random.Random, folder: Path) -> bool:
        path = folder / "t.parquet"
        data = fuzz.damaged(rng, fuzz.parquet_file(rng)[0])
        path.write_bytes(data)
        return fuzz.assert_read_as(path, fuzz.read_parquet(data), whole=False)

    assert 0.0 < run(case, tmp_path) < 1.0
