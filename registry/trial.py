"""A version tried in a server of its own, before a server that others use loads it.

Triton 2.51 can end when a version loads and then fails to run. The trial therefore loads the version by the
configuration it is to be served by, in an embedded server on free ports of loopback, and scores two simulated flights.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.errors import RepositoryError, ServerError
from reentry.features.track import track_features
from reentry.schema import FEATURES_TENSOR, MEASUREMENT_COLUMNS, MODEL_VERSION, PROBABILITY, REENTRY_LSTM
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.serving.installation import find_installation, require_libraries
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from registry import config_pbtxt
from registry.inventory import Version
from registry.store import CONFIG_FILE, VersionStore

_STEPS: Final = 600


def try_out(store: VersionStore, version: Version) -> str | None:
    """Load a version in a throw-away server and score two flights with it.

    Args:
        store: the repository that holds the version.
        version: a version of a format that is served.

    Returns:
        Why there was no trial, if this machine cannot serve the version; None after a trial.

    Raises:
        RepositoryError: the version cannot be loaded, fails to run, or answers what cannot be true; or there can be no
            trial here, and the version has no recorded gate that it passed.
    """
    assert version.spec is not None
    config = config_pbtxt.pinned(store.read(CONFIG_FILE).text or "", version=version.number, spec=version.spec)
    impossible = _obstacle(config)
    if impossible is not None:
        if version.manifest is None or not version.manifest.passed:
            raise RepositoryError(
                f"version {version.number} is refused: it has passed no gate, and no trial is possible here: "
                f"{impossible}",
                where=store.place(version.number),
                fix="promote it on a machine with 'reentry[serve]' installed, or without --url and restart the server",
            )
        return f"version {version.number} was not tried in a server of its own ({impossible}); it passed its gate"
    with tempfile.TemporaryDirectory(prefix="reentry-trial-") as folder:
        model = Path(folder) / REENTRY_LSTM.name
        store.fetch(version.number, model / str(version.number))
        (model / CONFIG_FILE).write_text(config)
        try:
            _score(Path(folder), version.number)
        except ServerError as error:
            raise RepositoryError(
                f"version {version.number} is refused: a trial in a server of its own failed: {error.problem}",
                where=store.place(version.number),
                fix="export the checkpoint again; no server was changed",
            ) from error
    return None


def _obstacle(config: str) -> str | None:
    """Why the embedded server of this machine cannot serve the network by `config`; None if it can."""
    model = config_pbtxt.read(config)
    if any(group.kind == group.KIND_GPU for group in model.instance_group):
        return "it runs on GPUs"
    try:
        require_libraries(find_installation())
    except ServerError as error:
        return error.problem
    return None


def _score(repository: Path, version: int) -> None:
    """Serve the network alone from `repository`, and check what it answers.

    Raises:
        ServerError: it does not load, refuses the request, or answers what cannot be true.
    """
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    features = _features()
    tensor = triton.InferInput(FEATURES_TENSOR.name, features.shape, FEATURES_TENSOR.dtype)
    tensor.set_data_from_numpy(features)
    config = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0, instances=1)
    with EmbeddedServer(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        try:
            answer = client.infer(REENTRY_LSTM.name, [tensor], client_timeout=60.0)
        except InferenceServerException as error:
            raise ServerError(f"it does not score a simulated flight: {error.message()}") from error
    probability, served = answer.as_numpy(PROBABILITY.name), answer.as_numpy(MODEL_VERSION.name)
    if probability.shape != features.shape[:2]:
        raise ServerError(f"{PROBABILITY.name} has shape {probability.shape} for tracks of {features.shape[:2]}")
    if not np.all((probability >= 0) & (probability <= 1)):  # NaN is neither
        raise ServerError(f"{PROBABILITY.name} is not between 0 and 1 for a simulated flight")
    if not np.all(served == version):
        raise ServerError(f"{MODEL_VERSION.name} is {np.unique(served).tolist()}, expected {version}")


def _features() -> npt.NDArray[np.float32]:
    """Features of two flights, (B, T, F)."""
    flights = simulate_trapezoid(TrapezoidConfig(tracks=2, shortest=_STEPS, longest=_STEPS, labels=False))
    return track_features(flights[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64).reshape(2, _STEPS, -1))
