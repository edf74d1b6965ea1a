"""A virtual environment for each framework, because their requirements exclude one another.

`perf/peers/requirements/NAME.txt` pins every package of an environment. An environment is built once and used again
until its file changes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reentry.errors import ReentryError

REQUIREMENTS: Final = Path(__file__).with_name("requirements")
TORCH_INDEX: Final = "https://download.pytorch.org/whl/cpu"
"""Index of PyTorch's builds without CUDA, as in the Makefile."""

_COMPLETE: Final = ".complete"
_LIMIT: Final = 900.0
"""Seconds for one installation step."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @property
    def bin(self) -> Path:
        """Folder of its programs."""
        return self.folder / "bin"

    def versions(self) -> dict[str, str]:
        """Return the version of each installed package, by name."""
        found = importlib.metadata.distributions(path=[str(path) for path in self._site_packages()])
        return dict(sorted((each.metadata["Name"], each.version) for each in found))

    def size(self) -> int:
        """Return the size of the installed packages in bytes, without byte code."""
        files = (path for root in self._site_packages() for path in root.rglob("*"))
        return sum(path.stat().st_size for path in files if path.is_file() and path.suffix != ".pyc")

    def _site_packages(self) -> list[Path]:
        return list(self.folder.glob("lib/python*/site-packages"))


def environment(name: str, cache: Path, *, torch: bool = False) -> Environment:
    """Return the environment of a requirements file, and build it if necessary.

    Args:
        name: name of the requirements file without its suffix.
        cache: folder of all environments.
        torch: whether to install PyTorch without CUDA too, in the version of the running environment.

    Raises:
        ReentryError: a package cannot be installed. The error includes the last line of the installer.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache.absolute() / f"{name}-{digest}"
    if not (folder / _COMPLETE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        _log.info(f"building the environment {folder}")
        _run([sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, str(folder)])
        python = str(folder / "bin/python")
        if torch:
            version = importlib.metadata.version("torch").partition("+")[0]
            # pip, as in the Makefile, because it prefers a build without CUDA from any configured place.
            command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
            _run([*command, "--retries", "1", "--extra-index-url", TORCH_INDEX, f"torch=={version}"])
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, "--no-deps"]
        _run([*command, "--requirements", str(requirements)])
        (folder / _COMPLETE).touch()
    return Environment(folder=folder)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_LIMIT
        )
    except subprocess.TimeoutExpired:
        raise ReentryError(f"the installation took longer than {_LIMIT:g} s", where=" ".join(command)) from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = " ".join(lines[-3:]) or f"exit status {done.returncode}"
        raise ReentryError("cannot be installed", got=reason)
