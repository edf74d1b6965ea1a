"""Location of perf_analyzer, which the tritonclient package installs, and of the libraries that it needs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reentry.errors import ReentryError
from reentry.serving.doctor import Check

_CUDA_RUNTIME: Final = "libcudart.so.12"
_FIXES: Final = {
    "libb64.so.0d": "apt-get install libb64-0d",
    _CUDA_RUNTIME: "pip install 'reentry[perf]' from the checkout, which brings nvidia-cuda-runtime-cu12",
}
"""Fix for each library that a machine may lack."""
_NO_BINARY: Final = "pip install 'reentry[perf]' from the checkout, which brings tritonclient 2.51.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyzer:
    """The perf_analyzer program of this environment."""

    binary: Path
    libraries: Path | None
    """Folder of the CUDA runtime library; None if the package with it is missing. No GPU is needed."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the process."""
        own = [str(self.libraries)] if self.libraries else []
        inherited = [path for path in [os.environ.get("LD_LIBRARY_PATH", "")] if path]
        return os.environ | {"LD_LIBRARY_PATH": ":".join(own + inherited)}

    def missing_libraries(self) -> list[str]:
        """Return the shared libraries that the loader does not find."""
        listing = _output(["ldd", str(self.binary)], self.environment)
        return sorted(line.split("=>")[0].strip() for line in listing.splitlines() if "not found" in line)

    def version(self) -> str:
        """Return the version of the program."""
        words = _output([str(self.binary), "--version"], self.environment).split()
        return next((word for word in words if word[:1].isdigit()), "unknown")


def find_analyzer() -> Analyzer:
    """Find perf_analyzer and check that it can start.

    Raises:
        ReentryError: the program or one of its libraries is missing.
    """
    binary = Path(sysconfig.get_path("scripts")) / "perf_analyzer"
    if not binary.is_file():
        raise ReentryError("perf_analyzer is not installed", where=str(binary), fix=_NO_BINARY)
    analyzer = Analyzer(binary=binary, libraries=_cuda_runtime())
    missing = analyzer.missing_libraries()
    if missing:
        fixes = dict.fromkeys(_FIXES.get(name, f"install the system package with {name}") for name in missing)
        raise ReentryError(f"perf_analyzer lacks {' and '.join(missing)}", fix="; ".join(fixes))
    return analyzer


def check_analyzer() -> Check:
    """Check whether perf_analyzer can start. It is only a warning if not, because serving does not need it."""
    try:
        analyzer = find_analyzer()
    except ReentryError as error:
        return Check(name="perf_analyzer", status="warn", found=error.problem, fix=error.fix or "")
    return Check(name="perf_analyzer", status="ok", found=f"{analyzer.binary}, version {analyzer.version()}")


def _cuda_runtime() -> Path | None:
    try:
        package = importlib.util.find_spec("nvidia.cuda_runtime")
    except ModuleNotFoundError:  # no package of nvidia is installed
        return None
    folders = package.submodule_search_locations if package else None
    library = Path(folders[0]) / "lib" if folders else None
    return library if library and (library / _CUDA_RUNTIME).exists() else None


def _output(command: list[str], environment: Mapping[str, str]) -> str:
    """Return what a program prints; perf_analyzer prints its version on standard error."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout + done.stderr
