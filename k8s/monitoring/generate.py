"""Generates the Grafana dashboard, and the rules in the format of the Prometheus operator.

    python k8s/monitoring/generate.py

A test checks that the generated files are up to date.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from gateway_panels import BACKEND_PANELS, REQUEST_PANELS, WORK_PANELS
from lake_panels import PANELS as LAKE_PANELS
from panel import Panel
from server_panels import LIVE_PANELS, PANELS

FOLDER: Final = Path(__file__).parent
_WIDTH, _HEIGHT, _ACROSS = 8, 8, 3

ROWS: Final = {
    "Live tracks": LIVE_PANELS,
    "Gateway: requests": REQUEST_PANELS,
    "Gateway: Triton, Redis, database": BACKEND_PANELS,
    "Gateway: jobs, events, experiments": WORK_PANELS,
    "Data pipeline": LAKE_PANELS,
}
"""Panels of each row by its title. Those above the first row are `PANELS`."""


def dashboard() -> dict[str, Any]:
    """Build the dashboard in the format that Grafana imports."""
    panels, y = _panels(PANELS, 1, 0), _lines(PANELS)
    for title, row in ROWS.items():
        panels.append(_row(title, len(panels) + 1, y))
        panels += _panels(row, len(panels) + 1, y + 1)
        y += 1 + _lines(row)
    return {
        "uid": "reentry",
        "title": "reentry",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "namespace",
                    "type": "query",
                    "datasource": _datasource(),
                    "query": 'label_values(up{job="reentry"}, namespace)',
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                    "refresh": 2,
                },
            ]
        },
        "panels": panels,
    }


def _lines(panels: Sequence[Panel]) -> int:
    """Return the height of the panels."""
    return -(-len(panels) // _ACROSS) * _HEIGHT


def _row(title: str, number: int, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": _ACROSS * _WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place}


def _panels(panels: Sequence[Panel], number: int, y: int) -> list[dict[str, Any]]:
    """Place panels below the line y, and number them."""
    return [
        _panel(panel, number + index, index % _ACROSS * _WIDTH, y + index // _ACROSS * _HEIGHT)
        for index, panel in enumerate(panels)
    ]


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.threshold is not None:
        steps.append({"color": "red", "value": panel.threshold})
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": _datasource(),
        "gridPos": {
            "x": x,
            "y": y,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {"thresholdsStyle": {"mode": "off" if panel.threshold is None else "line"}},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend, "datasource": _datasource()}
            for index, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


def _datasource() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def prometheus_rule() -> dict[str, Any]:
    """Build the PrometheusRule of the operator from rules.yaml."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "reentry", "labels": {"app.kubernetes.io/name": "reentry"}},
        "spec": yaml.safe_load((FOLDER / "rules.yaml").read_text()),
    }


def files() -> dict[Path, str]:
    """Contents of the generated files by path."""
    rule = yaml.safe_dump(prometheus_rule(), sort_keys=False, width=110)
    return {
        FOLDER / "dashboard.json": json.dumps(dashboard(), indent=2) + "\n",
        FOLDER / "prometheusrule.yaml": "# Written by generate.py from rules.yaml.\n# yamllint disable\n" + rule,
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
