"""The model `reentry_track`, which serves the graph from measurements to onsets of the version in production.

It has no labels of its own. A promotion or a rollback of reentry_lstm copies `track.onnx` of the version to
<repository>/reentry_track/<N>/model.onnx and pins it there too, so that both models serve one checkpoint. A running
server that had no version of reentry_track then loads the ensemble reentry_fast too, which needs one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from reentry.errors import ReentryError, RepositoryError, ServerError
from reentry.schema import REENTRY_FAST, REENTRY_LSTM
from registry import config_pbtxt
from registry.formats import FORMATS, TRACK_FILE, Format
from registry.inventory import Version
from registry.live_server import LiveServer, merged_config
from registry.manifest import MANIFEST_FILE, Manifest
from registry.models import TRACK_MODEL
from registry.store import CONFIG_FILE, Stored, VersionStore, file_entries, manifest_of

_SPEC = FORMATS[Format.ONNX]


@contextmanager
def track_model_follows(store: VersionStore, version: Version, server: LiveServer | None) -> Iterator[list[str]]:
    """Let reentry_track serve a version too, while the block brings it into production; undo this if the block fails.

    Args:
        store: the versions of reentry_lstm. The versions of other models have no such graph, and nothing happens.
        version: the version that comes into production.
        server: running server that changes to the version too.

    Yields:
        Warnings for the user, one line each; complete after the block.

    Raises:
        RepositoryError: the repository cannot be written; nothing has changed.
        ServerError, ClientError: the server cannot load the graph or does not answer; nothing has changed.
    """
    warnings: list[str] = []
    track = store.beside(TRACK_MODEL)
    config = track.read(CONFIG_FILE) if store.model.name == REENTRY_LSTM.name else Stored(None, None)
    if config.text is None:
        yield warnings
        return
    if TRACK_FILE not in version.files:
        served = ", ".join(map(str, track.versions())) or "none"
        warnings.append(
            f"version {version.number} has no {TRACK_FILE}, so {TRACK_MODEL.name} does not change; it has version "
            f"{served}; fix: export the checkpoint again"
        )
        yield warnings
        return
    _publish(store, track, version.number)
    pinned = config_pbtxt.pinned(config.text, version=version.number, spec=_SPEC, gpu=config_pbtxt.on_gpu(config.text))
    before = config_pbtxt.pinned_versions(config.text)
    live = None if server is None else server.for_model(TRACK_MODEL.name)
    current = None if live is None else _config_of(live)
    try:
        if live is not None:
            live.load(config_pbtxt.as_json(pinned) if current is None else merged_config(current, config.text, pinned))
            warnings += _ensemble_follows(live.for_model(REENTRY_FAST.name))
        if pinned != config.text:
            track.write(CONFIG_FILE, pinned, over=config)
        yield warnings
    except BaseException as error:
        _undo(track, config.text, live, current, error)
        raise
    try:
        for number in track.versions():
            if number != version.number and number not in before:
                track.remove(number)
    except RepositoryError as error:  # the version is in production all the same
        warnings.append(f"old versions of {TRACK_MODEL.name} stay: {error}")


def _publish(store: VersionStore, track: VersionStore, number: int) -> None:
    """Copy the graph of a version, unless reentry_track has it already."""
    manifest = manifest_of(store, number)
    if track.files(number):
        if manifest_of(track, number).files[_SPEC.whole_file] == manifest.files[TRACK_FILE]:
            return
        track.remove(number)  # of an earlier version with this number
    with tempfile.TemporaryDirectory(prefix="reentry-track-") as scratch:
        fetched, folder = Path(scratch) / "fetched", Path(scratch) / "version"
        store.fetch(number, fetched)
        folder.mkdir()
        shutil.move(fetched / TRACK_FILE, folder / _SPEC.whole_file)
        own: Manifest = replace(manifest, format=Format.ONNX, files=file_entries(folder))
        (folder / MANIFEST_FILE).write_text(own.to_json())
        with suppress(FileExistsError):  # another command has just published it
            track.install(folder, number)


def _ensemble_follows(live: LiveServer) -> list[str]:
    """Let a server load reentry_fast, unless it serves it already; return a warning if it cannot."""
    try:
        # Before config.pbtxt of reentry_track is written: Triton would load a member whose files have changed again.
        if _config_of(live) is None:
            live.load()
    except ServerError as error:
        return [f"{live.model} is not served, so clients use the slower reentry: {error}"]
    return []


def _config_of(live: LiveServer) -> str | None:
    """Configuration of the model in a server; None if the server does not serve it yet."""
    try:
        return live.config()
    except ServerError:
        return None


def _undo(track: VersionStore, text: str, live: LiveServer | None, current: str | None, error: BaseException) -> None:
    """Restore config.pbtxt and the running server after `error`."""
    try:
        changed = track.read(CONFIG_FILE)
        if changed.text != text:
            track.write(CONFIG_FILE, text, over=changed)
        if live is not None and current is not None and _config_of(live) != current:
            live.load(current)
    except ReentryError as second:
        raise RepositoryError(
            f"{error}; and {TRACK_MODEL.name} could not be restored: {second}",
            fix="promote the version in production again with --url",
        ) from error
