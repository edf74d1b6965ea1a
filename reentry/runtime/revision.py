"""Identity of this program: the git revision, and the digest of the container image."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

REVISION_VARIABLE: Final = "REENTRY_REVISION"
"""Environment variable with the git revision from which the container image was built, which the image sets."""
IMAGE_VARIABLE: Final = "REENTRY_IMAGE_DIGEST"
"""Environment variable with the digest of the container image, which a pod sets."""


def git_revision() -> str:
    """Git commit of this program, with the suffix "-dirty" if tracked files changed.

    Outside a checkout, it is the one of the container image, or "unknown".
    """
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
        return os.environ.get(REVISION_VARIABLE) or "unknown"
    return answer.stdout.strip()


def image_digest() -> str:
    """Digest of the container image in which this program runs; "unknown" outside one."""
    return os.environ.get(IMAGE_VARIABLE) or "unknown"
