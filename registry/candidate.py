"""The served candidate: a second version of the network, served beside the one in production to compare the two.

`serve_candidate` writes two models into the repository. `reentry_lstm_candidate` holds a copy of the version, and the
ensemble `reentry_candidate` is the ensemble `reentry` with that network instead of reentry_lstm. Clients choose between
the two ensembles. `stop_candidate` removes both models.

The network is a model of its own, instead of a second version that reentry_lstm serves, for two reasons. An ensemble
without a pinned version uses the largest one that is served, so that the candidate would answer the requests for
production. And a configuration has one backend and one file name, so that an INT8 or TensorRT version could not be
compared with a version in fp32. This way nothing that serves production changes.

Both models keep version numbers of reentry_lstm, and `model_version` in an answer is such a number. The features,
reference and training range of each answer are therefore those of the version that gave it.
"""

from __future__ import annotations

import tempfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reentry.errors import ConfigError, ReentryError, RepositoryError
from reentry.schema import CANDIDATE_ENSEMBLE, CANDIDATE_LSTM, ENSEMBLE, REENTRY_LSTM
from registry import config_pbtxt
from registry.inventory import find
from registry.labels import Record
from registry.live_server import LiveServer, merged_config
from registry.models import CANDIDATE, CANDIDATE_ENSEMBLE_FILES, ENSEMBLE_FILES
from registry.rules import require_servable
from registry.store import CONFIG_FILE, VersionStore, manifest_of
from registry.trial import try_out

_FOLDER_FILE: Final = "1/.gitkeep"
"""File that keeps the folder of a version, without which Triton does not load an ensemble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedCandidate:
    """Result of `serve_candidate`."""

    version: int
    production: int | None
    """Version in production; None if no version is."""
    warnings: tuple[str, ...] = ()
    """Warnings for the user, one line each."""


def candidate_version(store: VersionStore) -> int | None:
    """Return the version of reentry_lstm that the repository serves as reentry_candidate; None if there is none."""
    if store.model.name != REENTRY_LSTM.name:
        return None
    text = store.beside(CANDIDATE_ENSEMBLE_FILES).read(CONFIG_FILE).text
    pinned = config_pbtxt.pinned_versions(store.beside(CANDIDATE).read(CONFIG_FILE).text or "")
    return pinned[0] if text is not None and pinned else None


def serve_candidate(store: VersionStore, number: int, *, server: LiveServer | None = None) -> ServedCandidate:
    """Serve a version as reentry_candidate, in place of the version that was served so before.

    Args:
        store: the versions of reentry_lstm.
        number: the version to serve.
        server: running server that loads the version too.

    Raises:
        RepositoryError: it cannot be served, its trial failed, or the store cannot be written; nothing changed.
        ServerError, ClientError: the server cannot load the version or does not answer; nothing changed.
    """
    _require_network(store, server)
    version = find(store, number)
    require_servable(store, version)
    assert version.spec is not None
    text = store.read(CONFIG_FILE).text or ""
    pinned = config_pbtxt.pinned(text, version=number, spec=version.spec, gpu=config_pbtxt.on_gpu(text))
    network_text, ensemble_text = _renamed(pinned), _candidate_ensemble(store)
    fitted = None
    warnings = []
    if server is not None:
        fitted = merged_config(server.config(), text, network_text)
        if (untried := try_out(store, version, text)) is not None:
            warnings.append(untried)
    before = candidate_version(store)
    network, ensemble = store.beside(CANDIDATE), store.beside(CANDIDATE_ENSEMBLE_FILES)
    network_before = network.read(CONFIG_FILE)
    try:
        _copy_version(store, network, number)
        _write(network, CONFIG_FILE, network_text)
        _write(ensemble, _FOLDER_FILE, "An ensemble has no files, but Triton needs the folder of a version.\n")
        _write(ensemble, CONFIG_FILE, ensemble_text)
        if server is not None and fitted is not None:
            _load(server, fitted)
    except BaseException as error:
        _restore(network, ensemble, network_before.text if before is not None else None, number, error)
        raise
    for installed in network.versions():
        if installed != number:
            network.remove(installed)
    production = Record.of(store).labels.production
    return ServedCandidate(version=number, production=production, warnings=tuple(warnings))


def stop_candidate(store: VersionStore, *, server: LiveServer | None = None) -> int:
    """Stop to serve reentry_candidate, remove both of its models, and return the version that it served.

    Raises:
        RepositoryError: no candidate is served, or the store cannot be written.
        ServerError, ClientError: the server requires another key or does not answer; nothing changed.
    """
    _require_network(store, server)
    version = candidate_version(store)
    if version is None:
        raise RepositoryError(
            f"no version is served as {CANDIDATE_ENSEMBLE.name}",
            where=store.location,
            fix="`reentry repository compare VERSION` serves one",
        )
    if server is not None:
        for name in (CANDIDATE_ENSEMBLE.name, CANDIDATE_LSTM.name):  # the ensemble first, which needs the network
            live = server.for_model(name)
            if live.served_config() is not None:
                live.unload()
    for model in (CANDIDATE_ENSEMBLE_FILES, CANDIDATE):
        store.beside(model).clear()
    return version


def _require_network(store: VersionStore, server: LiveServer | None) -> None:
    for got in (store.model.name, REENTRY_LSTM.name if server is None else server.model):
        if got != REENTRY_LSTM.name:
            raise ConfigError("only versions of reentry_lstm are compared", expected=REENTRY_LSTM.name, got=got)


def _renamed(text: str) -> str:
    """Return the configuration of reentry_lstm under the name of the candidate's network."""
    target = deepcopy(config_pbtxt.read(text))
    target.name = CANDIDATE_LSTM.name
    return f"# Written by `reentry repository compare`.\n{config_pbtxt.rewritten(text, target)}"


def _candidate_ensemble(store: VersionStore) -> str:
    """Return the configuration of the ensemble `reentry` with the candidate's network."""
    place = store.beside(ENSEMBLE_FILES)
    text = place.read(CONFIG_FILE).text
    if text is None:
        raise RepositoryError(
            f"the repository has no ensemble {ENSEMBLE.name}",
            where=place.place(CONFIG_FILE),
            fix="copy its folder from the checkout",
        )
    target = deepcopy(config_pbtxt.read(text))
    target.name = CANDIDATE_ENSEMBLE.name
    for step in target.ensemble_scheduling.step:
        if step.model_name == REENTRY_LSTM.name:
            step.model_name = CANDIDATE_LSTM.name
    return f"# Written by `reentry repository compare`.\n{config_pbtxt.rewritten(text, target)}"


def _copy_version(store: VersionStore, network: VersionStore, number: int) -> None:
    """Copy a version to the candidate's network, unless it has the same files already."""
    if network.files(number):
        if manifest_of(network, number) == manifest_of(store, number):
            return
        network.remove(number)  # of an earlier version with this number
    with tempfile.TemporaryDirectory(prefix="reentry-candidate-") as scratch:
        store.fetch(number, Path(scratch) / "fetched")
        network.install(Path(scratch) / "fetched", number)


def _write(store: VersionStore, name: str, text: str) -> None:
    """Write a file, unless it has this text: Triton loads a model again whose files have a new time."""
    stored = store.read(name)
    if stored.text != text:
        store.write(name, text, over=stored)


def _load(server: LiveServer, config: str) -> None:
    """Let a running server change to the candidate's network, and load the ensemble if it does not serve it."""
    network, ensemble = (server.for_model(model.name) for model in (CANDIDATE_LSTM, CANDIDATE_ENSEMBLE))
    before = network.served_config()
    network.load(config)
    try:
        if ensemble.served_config() is None:
            ensemble.load()
    except BaseException:
        if before is None:
            network.unload()
        else:
            network.load(before)
        raise


def _restore(
    network: VersionStore, ensemble: VersionStore, text: str | None, number: int, error: BaseException
) -> None:
    """Restore the repository after an error: the configuration before, or no candidate."""
    try:
        if text is None:
            ensemble.clear()
            network.clear()
            return
        _write(network, CONFIG_FILE, text)
        if number in network.versions() and number not in config_pbtxt.pinned_versions(text):
            network.remove(number)
    except ReentryError as second:
        raise RepositoryError(
            f"{error}; and {CANDIDATE_LSTM.name} could not be restored: {second}",
            fix="`reentry repository compare --stop`",
        ) from error
