"""Settings of the judge."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.canary.config import CanaryLimits, JudgeConfig, SameTracks, read_limits
from reentry.errors import ConfigError
from tests.contract.manifests import K8S


def test_without_a_file_all_limits_have_their_defaults() -> None:
    assert read_limits(None) == CanaryLimits()


def test_the_guide_lists_every_limit_with_its_default(tmp_path: Path) -> None:
    guide = (K8S.parent / "docs" / "canary.md").read_text()
    (table,) = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    file = tmp_path / "canary.toml"
    file.write_text(table)
    assert read_limits(file) == CanaryLimits()
    assert set(tomllib.loads(table)["canary"]) == {field.name for field in fields(CanaryLimits)}


def test_a_file_replaces_the_limits_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "canary.toml"
    file.write_text("[canary]\nwindow = 60\nmin_agreement = 0.9\n")
    assert read_limits(file) == CanaryLimits(window=60, min_agreement=0.9)


@pytest.mark.parametrize(
    "text",
    ["[canary]\nspeed = 1\n", "[canary]\nwindow = 1.5\n", "[other]\nwindow = 60\n", "[canary]\nconfidence = 1.0\n"],
)
def test_an_invalid_file_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "canary.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        read_limits(file)


@pytest.mark.parametrize("name", [field.name for field in fields(CanaryLimits)])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_every_limit_has_a_range(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        CanaryLimits(**{name: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"prometheus": "127.0.0.1:9090"},
        {"prometheus": "grpc://127.0.0.1:9090"},
        {"prometheus": "http://127.0.0.1:9090/?query=up"},
        {"prometheus": "http:///api"},
        {"namespace": 'reentry",job="other'},
        {"namespace": ""},
        {"wait": -1},
        {"wait": 299},
    ],
)
def test_an_invalid_setting_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        JudgeConfig(**({"prometheus": "http://127.0.0.1:9090"} | settings))


@pytest.mark.parametrize("prometheus", ["http://127.0.0.1:9090", "https://prometheus.example.com/path/"])
def test_the_address_of_a_prometheus_may_have_a_path(prometheus: str) -> None:
    assert JudgeConfig(prometheus=prometheus).prometheus == prometheus


def test_the_addresses_of_the_servers_are_checked() -> None:
    with pytest.raises(ConfigError, match="Triton"):
        SameTracks(stable="grpc://127.0.0.1:8001", canary="127.0.0.1:8001", tracks=Path("tracks.csv"))


def test_the_limits_are_those_of_the_alerts() -> None:
    groups = yaml.safe_load((K8S / "monitoring" / "rules.yaml").read_text())["groups"]
    alerts = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"] if "alert" in rule}
    for alert, limit in (
        ("ReentryErrorRatio", CanaryLimits().max_error_ratio),
        ("ReentryLatencyHigh", CanaryLimits().max_p99),
        ("ReentryDrift", CanaryLimits().max_psi),
    ):
        assert float(alerts[alert].rpartition(">")[2]) == limit
