"""The number of cores that are available to a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from reentry.runtime import cores as cores_module


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("400000 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("", 8), (None, 8)],
)
def test_a_container_quota_limits_the_number_of_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str | None, cores: int
) -> None:
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(f"{quota}\n")
    monkeypatch.setattr(cores_module, "CPU_QUOTA", file)
    monkeypatch.setattr(cores_module.os, "sched_getaffinity", lambda _: set(range(8)))
    assert cores_module.cores() == cores
