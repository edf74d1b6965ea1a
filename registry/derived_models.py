"""The derived models, which serve further graphs of the version of reentry_lstm in production: `schema.DERIVED_MODELS`.

They have no labels of their own. A promotion or a rollback of reentry_lstm copies the file of each one, such as
`track.onnx` of the version to <repository>/reentry_track/<N>/model.onnx, and pins the version there too, so that all
models serve one checkpoint. A running server that had no version of a derived model then loads the models that need it
too. All derived models of the repository change, or none.

A derived model whose graph the version does not have keeps its own version. But if that has the same number, it is of
an earlier version whose number is used again, and the derived model drops it, so that a number means one checkpoint.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from reentry.errors import ReentryError, RepositoryError, ServerError
from reentry.schema import REENTRY_LSTM, DerivedModel
from registry import config_pbtxt
from registry.formats import FORMATS, Format
from registry.inventory import Version
from registry.live_server import LiveServer, merged_config
from registry.manifest import MANIFEST_FILE, Manifest
from registry.models import DERIVED
from registry.store import CONFIG_FILE, Stored, VersionStore, file_entries, manifest_of

_SPEC = FORMATS[Format.ONNX]


@contextmanager
def derived_models_follow(store: VersionStore, version: Version, server: LiveServer | None) -> Iterator[list[str]]:
    """Let the derived models serve a version too, while the block brings it into production; undo this if it fails.

    Args:
        store: the versions of reentry_lstm. The versions of other models have no such graphs, and nothing happens.
        version: the version that comes into production.
        server: running server that changes to the version too.

    Yields:
        Warnings for the user, one line each; complete after the block.

    Raises:
        RepositoryError: the repository cannot be written; nothing has changed.
        ServerError, ClientError: the server cannot load a graph or does not answer; nothing has changed.
    """
    warnings: list[str] = []
    followers = _followers(store, server)
    without = [follower for follower in followers if follower.derived.file not in version.files]
    followers = [follower for follower in followers if follower.derived.file in version.files]
    outdated = [follower for follower in without if version.number in follower.store.versions()]
    warnings += [follower.without_graph(version.number) for follower in without]
    _publish(store, version.number, followers)
    with ExitStack() as undo:
        for follower in outdated:
            undo.push(follower.restore)
            follower.end(version.number)
        for follower in followers:
            undo.push(follower.restore)
            warnings += follower.change(version.number)
        for follower in followers:  # the server ends their old versions at the same time
            follower.wait()
        yield warnings
    for follower in (*outdated, *followers):
        try:
            if follower in outdated:
                follower.remove_outdated(version.number)
            else:
                follower.remove_unused(version.number)
        except RepositoryError as error:  # the version is in production all the same
            warnings.append(f"old versions of {follower.derived.name} stay: {error}")


@dataclass(kw_only=True)
class _Follower:
    """A derived model that changes to another version, in the repository and in a running server."""

    derived: DerivedModel
    store: VersionStore
    """Versions of the derived model."""
    config: Stored
    """The file config.pbtxt before the change."""
    text: str
    """Text of this file."""
    live: LiveServer | None
    served: str | None = None
    """Configuration in the running server before the change; None if the server had no version."""
    changed: str | None = None
    """Configuration in the running server after the change; None before it."""
    loaded: list[LiveServer] = field(default_factory=list)
    """Models that the running server did not serve before, in the order in which it loaded them."""
    unloaded: list[tuple[LiveServer, str]] = field(default_factory=list)
    """Models that need this one and were unloaded with it, with their configurations, in the order of the unloading."""

    def without_graph(self, number: int) -> str:
        """Return the warning for a version that has no graph of this model."""
        reason = f"version {number} has no {self.derived.file}, so {self.derived.name}"
        fix = "fix: export the checkpoint again, which prints why it leaves a graph out"
        versions = self.store.versions()
        if number in versions and self.is_pinned(number):
            return f"{reason} is not served any more; its version {number} was of another checkpoint; {fix}"
        served = ", ".join(str(version) for version in versions if version != number) or "none"
        return f"{reason} does not change; it has version {served}; {fix}"

    def is_pinned(self, number: int) -> bool:
        """Return whether the model served a version before the change."""
        return number in config_pbtxt.pinned_versions(self.text)

    def end(self, number: int) -> None:
        """Let a running server end a version without loading another one, and first the models that need it."""
        if self.live is None or not self.is_pinned(number):
            return
        self.served = self.live.served_config()
        for model in reversed(self.derived.needed_by):
            other = self.live.for_model(model.name)
            if (config := other.served_config()) is not None:
                self.unloaded.append((other, config))
                other.unload()
        if self.served is not None:
            self.live.unload()

    def remove_outdated(self, number: int) -> None:
        """Remove a version; and all others too if it is the pinned one, so that the model counts as one without any."""
        for installed in self.store.versions() if self.is_pinned(number) else [number]:
            self.store.remove(installed)

    def change(self, number: int) -> list[str]:
        """Change to a version; return warnings about the models that need this one."""
        on_gpu = config_pbtxt.on_gpu(self.text)
        pinned = config_pbtxt.pinned(self.text, version=number, spec=_SPEC, gpu=on_gpu)
        warnings: list[str] = []
        if self.live is not None:
            self.served = self.live.served_config()
            new = self.served is None
            self.changed = config_pbtxt.as_json(pinned) if new else merged_config(self.served or "", self.text, pinned)
            self.live.load(self.changed, wait=False)
            if new:
                self.loaded.append(self.live)
            # Before config.pbtxt is written: Triton would load a member of an ensemble whose files have changed again.
            warnings += self._load_those_that_need_it(self.live)
        if pinned != self.text:
            self.store.write(CONFIG_FILE, pinned, over=self.config)
        return warnings

    def _load_those_that_need_it(self, live: LiveServer) -> list[str]:
        """Let the server load the models that need this one, unless it serves them; return a warning for a failure."""
        warnings = []
        for model in self.derived.needed_by:
            other = live.for_model(model.name)
            try:
                if other.served_config() is None:
                    other.load()
                    self.loaded.append(other)
            except ServerError as error:
                warnings.append(f"{model.name} is not served, and clients must do without it: {error}")
        return warnings

    def wait(self) -> None:
        """Wait until the running server has ended the old version."""
        if self.live is not None and self.changed is not None:
            self.live.wait(self.changed)

    def restore(self, _: object, error: BaseException | None, __: object) -> None:
        """Restore config.pbtxt and the running server after an error; the arguments are those of `__exit__`."""
        if error is None:
            return
        try:
            changed = self.store.read(CONFIG_FILE)
            if changed.text != self.text:
                self.store.write(CONFIG_FILE, self.text, over=changed)
            for model in reversed(self.loaded):
                model.unload()
            if self.live is not None and self.served is not None and self.live.served_config() != self.served:
                self.live.load(self.served)
            for model, config in reversed(self.unloaded):
                if model.served_config() is None:
                    model.load(config)
        except ReentryError as second:
            raise RepositoryError(
                f"{error}; and {self.derived.name} could not be restored: {second}",
                fix="promote the version in production again with --url",
            ) from error

    def remove_unused(self, number: int) -> None:
        """Remove all versions except the new one and those before, which requests in flight may still use."""
        before = config_pbtxt.pinned_versions(self.text)
        for installed in self.store.versions():
            if installed != number and installed not in before:
                self.store.remove(installed)


def _followers(store: VersionStore, server: LiveServer | None) -> list[_Follower]:
    """Return the derived models that a repository holds."""
    found = []
    for derived, model in DERIVED.items() if store.model.name == REENTRY_LSTM.name else ():
        own = store.beside(model)
        config = own.read(CONFIG_FILE)
        if config.text is not None:
            live = None if server is None else server.for_model(derived.name)
            found.append(_Follower(derived=derived, store=own, config=config, text=config.text, live=live))
    return found


def _publish(store: VersionStore, number: int, followers: Sequence[_Follower]) -> None:
    """Copy the graphs of a version, unless the derived models have them already."""
    if not followers:
        return
    manifest = manifest_of(store, number)
    outdated = []
    for follower in followers:
        if follower.store.files(number):
            published = manifest_of(follower.store, number).files[_SPEC.whole_file]
            if published == manifest.files[follower.derived.file]:
                continue
            follower.store.remove(number)  # of an earlier version with this number
        outdated.append(follower)
    if not outdated:
        return
    with tempfile.TemporaryDirectory(prefix="reentry-derived-") as scratch:
        fetched = Path(scratch) / "fetched"
        store.fetch(number, fetched)
        for follower in outdated:
            folder = Path(scratch) / follower.derived.name
            folder.mkdir()
            shutil.move(fetched / follower.derived.file, folder / _SPEC.whole_file)
            own: Manifest = replace(manifest, format=Format.ONNX, files=file_entries(folder))
            (folder / MANIFEST_FILE).write_text(own.to_json())
            with suppress(FileExistsError):  # another command has just published it
                follower.store.install(folder, number)
