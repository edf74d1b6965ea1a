"""The folder a server runs from: its backends and, unless the user names a place, its logs."""

from __future__ import annotations

import shutil
from pathlib import Path

from reentry.serving.installation import Installation


def assemble_backends(folder: Path, installation: Installation) -> Path:
    """Lay out `folder`/backends: Triton's Python backend with the stub of this Python, and our own backends.

    Copies, 3 MB: Triton refuses a backend whose library is a link to somewhere else.
    """
    backends = folder / "backends"
    shutil.copytree(installation.python_backend, backends / "python")
    shutil.copy2(installation.stub, backends / "python")
    for source in sorted((Path(__file__).parent / "backends").glob("*/model.py")):
        target = backends / source.parent.name
        target.mkdir()
        shutil.copy2(source, target)
    return backends
