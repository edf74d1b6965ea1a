"""The Makefile, called as from a shell, whatever calls the tests."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.contract.manifests import K8S, program

ROOT = K8S.parent

# What an outer make or a pipeline says must not decide for this one.
_SETTINGS = {
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
    *re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE),
}


def make(*words: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder."""
    outer = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
    return subprocess.run(
        [program("make"), *words],
        cwd=folder,
        env={**outer, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
