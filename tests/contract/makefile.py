"""Runs of make that do not inherit settings from the process that runs the tests."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.contract.manifests import K8S, program

ROOT = K8S.parent

# Variables that an outer make or a pipeline may set. They must not change the runs under test.
_SETTINGS = {
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
    *re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE),
}


def make(*words: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make with these arguments in a folder."""
    outer = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
    return subprocess.run(
        [program("make"), *words],
        cwd=folder,
        env={**outer, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
