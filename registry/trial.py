"""A trial of a version in a private server, before a server that others use loads it.

Triton 2.51 can crash when a version loads and then fails to run. The trial therefore loads the version with the
configuration that will serve it, in an embedded server on free loopback ports, and sends it one request.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from reentry.errors import RepositoryError, ServerError
from reentry.schema import MODEL_VERSION
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.serving.installation import find_installation, require_libraries
from registry import config_pbtxt
from registry.inventory import Version
from registry.models import VersionedModel
from registry.store import CONFIG_FILE, VersionStore


def try_out(store: VersionStore, version: Version, config: str) -> str | None:
    """Load a version in a private server and score a request with it.

    Args:
        store: the repository that holds the version.
        version: a version of a format that is served.
        config: the text of config.pbtxt.

    Returns:
        None after a trial; otherwise the reason why this machine cannot run one.

    Raises:
        RepositoryError: the version does not load, does not run, or gives wrong outputs; or there is neither a trial
            nor a gate that the version passed.
    """
    assert version.spec is not None
    config = config_pbtxt.pinned(config, version=version.number, spec=version.spec)
    obstacle = _obstacle(config)
    if obstacle is not None:
        if version.manifest is None or not version.manifest.passed:
            raise RepositoryError(
                f"version {version.number} is refused: it passed no gate, and this machine cannot run a trial: "
                f"{obstacle}",
                where=store.place(version.number),
                fix="promote it on a machine with 'reentry[serve]' installed, or without --url and restart the server",
            )
        return f"version {version.number} had no trial ({obstacle}); it passed its gate"
    with tempfile.TemporaryDirectory(prefix="reentry-trial-") as folder:
        model = Path(folder) / store.model.name
        store.fetch(version.number, model / str(version.number))
        (model / CONFIG_FILE).write_text(config)
        try:
            _score(Path(folder), store.model, version.number)
        except ServerError as error:
            raise RepositoryError(
                f"version {version.number} is refused: its trial failed: {error.problem}",
                where=store.place(version.number),
                fix="export the checkpoint again; no server was changed",
            ) from error
    return None


def _obstacle(config: str) -> str | None:
    """Return why the embedded server of this machine cannot serve the configuration, or None if it can."""
    if config_pbtxt.on_gpu(config):
        return "it runs on GPUs"
    try:
        require_libraries(find_installation())
    except ServerError as error:
        return error.problem
    return None


def _score(repository: Path, model: VersionedModel, version: int) -> None:
    """Serve a repository that holds this model alone, and check the outputs of one request.

    Raises:
        ServerError: the model does not load, refuses the request, or gives wrong outputs.
    """
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    inputs = model.trial_inputs()
    request = []
    for tensor in model.tensors.inputs:
        request.append(triton.InferInput(tensor.name, inputs[tensor.name].shape, tensor.dtype))
        request[-1].set_data_from_numpy(inputs[tensor.name])
    config = ServerConfig(
        model_repository=repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        instances=1,
        drain_timeout=0.1,  # no request is in flight when the trial ends
    )
    with EmbeddedServer(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        try:
            answer = client.infer(model.name, request, client_timeout=60.0)
        except InferenceServerException as error:
            raise ServerError(f"{model.name} cannot score the trial request: {error.message()}") from error
    outputs = {tensor.name: answer.as_numpy(tensor.name) for tensor in model.tensors.outputs}
    if (fault := model.trial_fault(inputs, outputs)) is not None:
        raise ServerError(fault)
    served = outputs[MODEL_VERSION.name]
    if not np.all(served == version):
        raise ServerError(f"{MODEL_VERSION.name} is {np.unique(served).tolist()}, expected {version}")
