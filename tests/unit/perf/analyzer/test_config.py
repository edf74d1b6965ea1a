"""Settings of a measurement and the workloads that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perf.analyzer.config import PerfConfig, read_config, steps_of
from reentry.errors import ConfigError


def test_every_combination_of_the_settings_is_a_workload() -> None:
    config = PerfConfig(
        models=("reentry", "other"),
        protocols=("grpc", "http"),
        batches=(1, 8),
        lengths=("900", "600-1200"),
        concurrency=(1, 2, 4),
        rates=(50.0,),
        distributions=("constant", "poisson"),
    )
    workloads = list(config.workloads())
    assert len(workloads) == len(set(workloads)) == 2 * 2 * 2 * 2 * (3 + 1 * 2)
    assert str(workloads[0]) == "reentry, grpc, batch 1, 900 steps, concurrency 1"
    assert str(workloads[4]) == "reentry, grpc, batch 1, 900 steps, poisson 50/s"


def test_rates_alone_have_no_workload_of_concurrency() -> None:
    config = PerfConfig(concurrency=(), rates=(50.0, 100.0))
    assert [(each.load, each.level) for each in config.workloads()] == [("constant", 50.0), ("constant", 100.0)]


def test_settings_are_read_from_the_table_perf_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "perf.toml"
    file.write_text('[perf]\nmodels = ["reentry_track"]\nconcurrency = [2]\nwindow = 1\n')
    assert read_config(file) == PerfConfig(models=("reentry_track",), concurrency=(2,), window=1)
    assert read_config(None) == PerfConfig()


def test_the_protocols_of_the_urls_are_measured_unless_the_file_names_some(tmp_path: Path) -> None:
    file = tmp_path / "perf.toml"
    file.write_text('[perf]\nprotocols = ["shared-memory"]\n')
    assert read_config(None, protocols=("http",)).protocols == ("http",)
    assert read_config(file, protocols=("grpc",)).protocols == ("shared-memory",)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"protocols": ("udp",)}, "protocols"),
        ({"protocols": ()}, "protocols"),
        ({"distributions": ("normal",)}, "distributions"),
        ({"models": ("a model",)}, "models"),
        ({"models": ()}, "models"),
        ({"batches": (0,)}, "batches"),
        ({"batches": ()}, "nothing to measure"),
        ({"models": ("reentry_stream", "reentry")}, "reentry_stream cannot be measured"),
        ({"models": ("reentry_stream",), "batches": (2,)}, "reentry_stream cannot be measured"),
        ({"models": ("reentry_stream",), "protocols": ("http",)}, "reentry_stream cannot be measured"),
        ({"batches": (64, 64)}, "duplicate value in batches"),
        ({"batches": (64,), "lengths": ("100000",)}, "batches"),
        ({"lengths": ("x",)}, "lengths"),
        ({"lengths": ("1200-600",)}, "lengths"),
        ({"lengths": ("9",)}, "lengths"),
        ({"concurrency": (0,)}, "concurrency"),
        ({"concurrency": ()}, "nothing to measure"),
        ({"rates": (0.0,)}, "rates"),
        ({"rates": (float("nan"),)}, "rates"),
        ({"window": 0.0}, "window"),
        ({"stability": 0.0}, "stability"),
        ({"windows": 2}, "windows"),
        ({"recorded": -1}, "recorded"),
        ({"seed": -1}, "seed"),
    ],
)
def test_an_impossible_setting_is_refused(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        PerfConfig(**wrong)
    assert error.value.expected


def test_a_length_is_a_number_of_steps_or_a_range() -> None:
    assert steps_of("900") == (900, 900)
    assert steps_of("600-1200") == (600, 1200)
