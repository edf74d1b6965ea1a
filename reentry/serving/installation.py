"""Where the parts of a Triton server lie on this machine: they come inside the nvidia-pytriton package."""

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
    """The parts of the embedded server."""

    binary: Path
    python_backend: Path
    """Folder of Triton's Python backend."""
    stub: Path
    """The program that runs a Python model, built for one version of Python."""
    libraries: Path
    """Folder of the shared libraries that came with the binary."""

    @property
    def library_path(self) -> str:
        """LD_LIBRARY_PATH of the server and its stubs, and of nothing else."""
        folders = [self.libraries]
        own = sysconfig.get_config_var("LIBDIR")
        # An interpreter under a user's home (pyenv, uv) keeps its library beside it, where the loader does not look.
        if own and (Path(own) / libpython()).exists():
            folders.append(Path(own))
        return ":".join(str(folder) for folder in folders)

    def missing_libraries(self) -> list[str]:
        """Shared libraries of the binary and the stub that the loader does not find."""
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
    """File name of this Python's shared library, which the stub is linked with."""
    return f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"


def find_installation() -> Installation:
    """Find the server without importing the package that carries it.

    Raises:
        ServerError: a part is missing; which one, and how to get it.
    """
    package = importlib.util.find_spec("pytriton")
    if package is None or package.origin is None:
        raise ServerError("the Triton server is not installed: there is no package nvidia-pytriton", fix=_FIX)
    root = Path(package.origin).parent
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = Installation(
        binary=root / "tritonserver/bin/tritonserver",
        python_backend=root / "tritonserver/backends/python",
        stub=root / f"tritonserver/python_backend_stubs/{python}/triton_python_backend_stub",
        libraries=root.parent / "nvidia_pytriton.libs",
    )
    for part, path in (
        ("server binary", found.binary),
        ("Python backend", found.python_backend / "libtriton_python.so"),
        (f"Python backend stub for Python {python}", found.stub),
        ("folder of shared libraries", found.libraries),
    ):
        if not path.exists():
            raise ServerError(f"nvidia-pytriton has no {part}", where=str(path), fix=_FIX)
    return found


def require_libraries(installation: Installation) -> None:
    """See that the binary and the stub can be loaded.

    Raises:
        ServerError: the shared libraries that the loader does not find, and how to get them.
    """
    missing = installation.missing_libraries()
    if missing:
        package = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
        raise ServerError(
            f"the Triton server lacks shared libraries: {', '.join(missing)}",
            fix=f"apt-get install {package}" if missing == [libpython()] else "install the system's packages of them",
        )


def require_packages() -> None:
    """See that a Python model will find its packages, in the environment its stub takes.

    Raises:
        ServerError: what cannot be imported, and how to get it.
    """
    modules = "numpy, onnxruntime, reentry.features.track"
    # As the stub does: the first python3 on PATH, without PYTHONPATH, away from the checkout.
    tried = subprocess.run(
        ["python3", "-I", "-c", f"import {modules}"],
        env={**os.environ, "PATH": program_path()},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        reason = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ServerError(f"Python models cannot import {modules}: {reason}", where=sys.prefix, fix=_FIX)


def program_path() -> str:
    """PATH of the stubs. A stub ignores PYTHONPATH: it takes the packages of the python3 it finds first on PATH.

    That must be this interpreter's environment, whether or not the user activated it.
    """
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
