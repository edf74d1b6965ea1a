"""Orbit features of tracks: the results of the compiled filter in `reentry.features.orbit_filter`, by name.

The filter needs numba, which compiles it on its first use. Everything else works without numba, so this module imports
it only when orbit features are computed.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np

from reentry.arrays import Array
from reentry.errors import ConfigError, ExportError
from reentry.features.history import History, WholeTracks
from reentry.schema import ENSEMBLE, MEASUREMENT_COLUMNS, ORBIT_FEATURES, REENTRY_SCAN

COMPILER: Final = "numba"
"""Package that compiles the filter."""

CACHE_VARIABLE: Final = "NUMBA_CACHE_DIR"
"""Environment variable with the folder in which numba keeps compiled code."""

COMPILED_FROM: Final = ("orbit_filter.py", "motion.py", "standard_atmosphere.py")
"""Files whose code or constants are in the compiled code."""

_LARGEST: Final = float(np.finfo(np.float32).max)


def orbit_features(columns: Sequence[Array], history: History) -> dict[str, Array]:
    """Compute the orbit features of T steps, (B, T) float64 each.

    Args:
        columns: measurements, (B, T) for each column of `schema.MEASUREMENT_COLUMNS`.
        history: state of the filter after the earlier measurements of live tracks.

    Raises:
        ConfigError: numba is not installed.
        ExportError: the columns are not numpy arrays, as in the trace of an ONNX graph.
    """
    if not isinstance(columns[0], np.ndarray):
        raise ExportError(
            "an ONNX graph cannot compute the orbit filter",
            expected="numpy arrays",
            got=type(columns[0]).__name__,
            fix=f"serve the network with the models {ENSEMBLE.name} and {REENTRY_SCAN.name}",
        )
    compiled = _compiled()
    measurements = np.ascontiguousarray(np.stack(columns, axis=-1))  # (B, T, M)
    (before,), keep = history.carried([np.zeros((len(measurements), 1), compiled.STATE)])
    state = np.array(before, order="C")  # a copy, since the filter changes the state in place
    features = np.empty((*measurements.shape[:2], len(ORBIT_FEATURES)))
    compiled.continue_all(state.reshape(-1), measurements, features)
    keep([state])
    features[~(np.abs(features) <= _LARGEST).all(axis=-1)] = 0.0  # the filter diverged, so nothing is known
    return {name: np.ascontiguousarray(features[..., index]) for index, name in enumerate(ORBIT_FEATURES)}


def is_available() -> bool:
    """Return whether this machine can compute orbit features."""
    return importlib.util.find_spec(COMPILER) is not None


def warm_up() -> None:
    """Compile the filter, so that the first track need not wait for it: about ten seconds, or one if it is cached."""
    orbit_features([np.zeros((1, 1))] * len(MEASUREMENT_COLUMNS), WholeTracks())


def _compiled() -> ModuleType:
    """Import the compiled filter.

    Raises:
        ConfigError: numba is not installed.
    """
    if not is_available():
        raise ConfigError(
            "orbit features cannot be computed",
            expected=f"the package {COMPILER}, which compiles the orbit filter",
            got="it is not installed",
            fix="pip install 'reentry[orbit]', or use a network without orbit features",
        )
    _choose_cache()
    from reentry.features import orbit_filter

    return orbit_filter


def _choose_cache() -> None:
    """Select a writable folder for compiled code that was compiled from the present source, see `_fingerprint`.

    It lies beside the source, or below the temporary folder if that of the source is read-only, as often in containers.
    A folder that the user has chosen is kept.
    """
    if os.environ.get(CACHE_VARIABLE):
        return
    source = Path(__file__).parent
    beside = source / "__pycache__"
    name = f"reentry-numba-{_fingerprint()}"
    if os.access(beside if beside.is_dir() else source, os.W_OK):
        os.environ[CACHE_VARIABLE] = str(beside / name)
        return
    folder = Path(tempfile.gettempdir(), f"{name}-{os.getuid()}")
    with suppress(FileExistsError):  # also raised for a file or a dangling link
        folder.mkdir(mode=stat.S_IRWXU)
    status = folder.lstat()
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    # Code of other users must not run here.
    os.environ[CACHE_VARIABLE] = str(folder) if is_private else tempfile.mkdtemp(prefix="reentry-numba-")


def _fingerprint() -> str:
    """Return a name for the present source of the filter and the version of its compiler.

    Numba compiles a file again if that file changes, but compiled code also contains constants of other files.
    """
    digest = hashlib.sha256(version(COMPILER).encode())
    for name in COMPILED_FROM:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]
