"""Location of the Triton server's files, which the nvidia-pytriton package installs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reentry.errors import ServerError

_FIX: Final = "make setup, or pip install 'reentry[serve]' from the checkout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Files of the embedded server."""

    binary: Path
    """The tritonserver program."""
    python_backend: Path
    """Folder of Triton's Python backend."""
    stub: Path
    """Program that runs a Python model, built for one version of Python."""
    libraries: Path
    """Folder of the shared libraries that are installed with the binary."""

    @property
    def library_path(self) -> str:
        """LD_LIBRARY_PATH for the server and its stubs."""
        folders = [self.libraries]
        own = sysconfig.get_config_var("LIBDIR")
        # The library of an interpreter from pyenv or uv lies in the user's home, where the loader does not search.
        if own and (Path(own) / libpython()).exists():
            folders.append(Path(own))
        return ":".join(str(folder) for folder in folders)

    def missing_libraries(self) -> list[str]:
        """Return the shared libraries of the binary and the stub that the loader does not find."""
        missing: set[str] = set()
        for program in (self.binary, self.stub):
            listing = subprocess.run(
                ["ldd", str(program)],
                env={"LD_LIBRARY_PATH": self.library_path, "PATH": "/usr/bin:/bin"},
                capture_output=True,
                text=True,
                check=False,
            ).stdout
            missing.update(line.split("=>")[0].strip() for line in listing.splitlines() if "not found" in line)
        return sorted(missing)


def libpython() -> str:
    """Return the file name of this Python's shared library, which the stub is linked with."""
    return f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"


def find_installation() -> Installation:
    """Find the server without importing the nvidia-pytriton package.

    Raises:
        ServerError: the package or one of its files is missing.
    """
    package = importlib.util.find_spec("pytriton")
    if package is None or package.origin is None:
        raise ServerError("the Triton server is not installed: no package nvidia-pytriton", fix=_FIX)
    root = Path(package.origin).parent
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = Installation(
        binary=root / "tritonserver/bin/tritonserver",
        python_backend=root / "tritonserver/backends/python",
        stub=root / f"tritonserver/python_backend_stubs/{python}/triton_python_backend_stub",
        libraries=root.parent / "nvidia_pytriton.libs",
    )
    for name, path in (
        ("server binary", found.binary),
        ("Python backend", found.python_backend / "libtriton_python.so"),
        (f"Python backend stub for Python {python}", found.stub),
        ("folder of shared libraries", found.libraries),
    ):
        if not path.exists():
            raise ServerError(f"nvidia-pytriton has no {name}", where=str(path), fix=_FIX)
    return found


def require_libraries(installation: Installation) -> None:
    """Check that the loader finds the shared libraries of the binary and the stub.

    Raises:
        ServerError: shared libraries are missing.
    """
    missing = installation.missing_libraries()
    if missing:
        package = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
        raise ServerError(
            f"the Triton server lacks shared libraries: {', '.join(missing)}",
            fix=f"apt-get install {package}"
            if missing == [libpython()]
            else "install the system packages that contain them",
        )


def require_packages() -> None:
    """Check that a Python model can import its packages in the environment of its stub.

    Raises:
        ServerError: a package cannot be imported.
    """
    modules = "numpy, onnxruntime, reentry.features.track"
    # The stub uses the first python3 on PATH and ignores PYTHONPATH. Run it outside the checkout.
    result = subprocess.run(
        ["python3", "-I", "-c", f"import {modules}"],
        env={**os.environ, "PATH": program_path()},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ServerError(f"Python models cannot import {modules}: {reason}", where=sys.prefix, fix=_FIX)


def program_path() -> str:
    """Return PATH for the stubs, with this interpreter's environment first, whether or not the user activated it.

    A stub ignores PYTHONPATH and uses the packages of the first python3 on PATH.
    """
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
