"""Git revision of this program."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_revision() -> str:
    """Git commit of this program, with the suffix "-dirty" if tracked files changed; "unknown" outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
