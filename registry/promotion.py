"""Which version serves: promotion behind rules, rollback, and pruning of what nobody needs.

The rules of a promotion: the files are those of the version's manifest and its format is served, always; it passed the
gate and is no worse than production on `labels.METRIC`, unless a reason is given, which is kept with the figures.

What Triton serves is the version pinned in config.pbtxt; labels.json is the record of it. A change goes to the running
server first, where one is named, after a trial in a server of its own: if either cannot load the version, nothing has
changed anywhere. Then the record is
written, then the pin, each in one step; if one of them cannot be, the steps before it are taken back. A command that is
killed between them leaves a server ahead of its repository, which the same command brings together again, or a pin
behind its record, which the next command that changes anything mends, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from reentry.errors import ReentryError, RepositoryError
from reentry.schema import SCHEMA_VERSION
from registry import config_pbtxt
from registry.inventory import Version, find, find_all, find_production
from registry.labels import METRIC, Change, Labels, Record
from registry.live_server import LiveServer
from registry.store import CONFIG_FILE, LABELS_FILE, Stored, VersionStore, faults_of
from registry.trial import try_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What a promotion or a rollback did."""

    change: Change
    notes: tuple[str, ...] = ()
    """What the user should know beside it."""


def promote(
    store: VersionStore,
    number: int,
    *,
    reason: str | None = None,
    server: LiveServer | None = None,
    gpu: bool | None = None,
) -> Promotion:
    """Bring a version into production; production itself again, where server or config.pbtxt have left it.

    Args:
        store: of the model repository.
        number: the version.
        reason: overrides the gate and the metric, and is recorded.
        server: changes too, without a gap.
        gpu: whether it runs on GPUs; None: where config.pbtxt runs the version before it.

    Raises:
        RepositoryError: a rule stands against it, or the store takes no change; nothing has changed then.
        ServerError, ClientError: the server cannot load it or does not answer; nothing has changed then.
    """
    record = Record.of(store)
    version = find(store, number)
    _require_usable(store, version)
    before = find_production(store, record.labels)
    against = _rules_against(version, before) if record.labels.production != number else []
    if against and not reason:
        raise RepositoryError(
            f"version {number} is not promoted: {'; '.join(against)}",
            where=store.location,
            fix="export a better one, or override with --reason 'WHY', which is recorded",
        )
    notes = _notes(version, before)
    return _change(store, record, version, "promote", reason, tuple(against), notes, server, gpu)


def rollback(
    store: VersionStore, *, to: int | None = None, reason: str | None = None, server: LiveServer | None = None
) -> Promotion:
    """Bring back what was in production before, or an earlier version.

    Raises:
        RepositoryError: there is none, or its files are not whole; nothing has changed then.
        ServerError, ClientError: the server cannot load it or does not answer; nothing has changed then.
    """
    record = Record.of(store)
    earlier = [number for number in record.labels.earlier() if store.files(number)]
    if to is None and not earlier:
        raise RepositoryError(
            "nothing to roll back to",
            where=store.place(LABELS_FILE),
            expected="a version that was in production before and is still there",
            fix="`reentry repository promote VERSION`",
        )
    number = earlier[0] if to is None else to
    if number not in earlier:
        raise RepositoryError(
            f"version {number} was not in production before",
            where=store.place(LABELS_FILE),
            expected=" or ".join(map(str, earlier)) or "an earlier version, of which there is none",
            fix=f"`reentry repository promote {number}`",
        )
    version = find(store, number)
    _require_usable(store, version)
    return _change(store, record, version, "rollback", reason, (), [], server, None)


def label_exported(
    store: VersionStore, numbers: Sequence[int], *, promote_it: bool = False, reason: str | None = None
) -> Promotion | None:
    """Label the first served one of freshly installed versions as candidate, and promote it where that is due.

    It is due when asked for, and where nothing is in production yet, so that a first export is served.

    Args:
        store: of the model repository.
        numbers: the versions, in the order in which their formats were asked for.
        promote_it: promote it behind the rules.
        reason: overrides them.

    Returns:
        The promotion; None where there was none.

    Raises:
        RepositoryError: a rule stands against the promotion; it is the candidate then.
    """
    found = (find(store, number) for number in numbers)
    served = next((version.number for version in found if version.spec and version.spec.backend), None)
    if served is None:
        return None
    record = Record.of(store)
    labels = record.labels
    record.replace(store, replace(labels, candidate=served))
    if promote_it or labels.production is None:
        return promote(store, served, reason=reason)
    return None


def prune(store: VersionStore, *, keep: int, dry_run: bool = False) -> tuple[list[int], list[str]]:
    """Remove old versions, but never production, the candidate, what a rollback would take, or what config.pbtxt pins.

    Uploads that never ended go too, when they are older than production: newer ones may still be running.

    Args:
        store: of the model repository.
        keep: how many of the newest versions stay in any case.
        dry_run: remove nothing.

    Returns:
        The numbers removed, or that would be, and what else happened.

    Raises:
        RepositoryError: nothing is in production, or the store takes no change.
    """
    record = Record.of(store)
    labels = record.labels
    if labels.production is None:
        raise RepositoryError(
            "nothing is in production, so that nothing is known to be needless",
            where=store.location,
            fix="`reentry repository promote VERSION` first",
        )
    notes = [] if dry_run else mend(store, labels)
    versions = find_all(store)
    whole = [version.number for version in versions if not version.unfinished]
    back = next((number for number in labels.earlier() if number in whole), None)
    newest = whole[max(len(whole) - keep, 0) :]
    kept = {labels.production, labels.candidate, back, *pinned_versions(store.read(CONFIG_FILE)), *newest}
    needless = [number for number in whole if number not in kept]
    needless += [version.number for version in versions if version.unfinished and version.number < labels.production]
    for number in sorted(needless):
        if not dry_run:
            store.remove(number)
    return sorted(needless), notes


def _require_usable(store: VersionStore, version: Version) -> None:
    """The rules that no reason overrides."""
    where = store.place(version.number)
    if version.unfinished:
        raise RepositoryError(
            "is not whole: its upload has not ended", where=where, fix="wait for it, or export the checkpoint again"
        )
    if version.spec is None or version.spec.backend is None:
        raise RepositoryError(
            f"format {version.spec.format} is a reference and is not served"
            if version.spec
            else f"no format is known of it: {version.problem}",
            where=where,
            fix="promote a version of another format",
        )
    if version.manifest is not None:
        if version.manifest.schema_version != SCHEMA_VERSION:
            raise RepositoryError(
                "is of another schema version, so that its graph takes other features than are served",
                where=where,
                expected=str(SCHEMA_VERSION),
                got=str(version.manifest.schema_version),
                fix="train and export again; no reason overrides this",
            )
        faults = faults_of(store, version.number, version.manifest)
        if version.spec.whole_file not in version.manifest.files:
            faults.append(f"the manifest names no {version.spec.whole_file}")
        if faults:
            raise RepositoryError(
                f"its files are not those of its manifest: {', '.join(faults)}",
                where=where,
                fix="export the checkpoint again; no reason overrides this",
            )


def _rules_against(version: Version, before: Version | None) -> list[str]:
    """The rules that a reason overrides, and why they stand against the version."""
    against = []
    if version.manifest is None:
        against.append(f"no gate is known of it ({version.problem})")
    elif not version.manifest.passed:
        against.append("it did not pass the gate")
    if before is not None and _cost(version) > _cost(before):
        against.append(
            f"its {METRIC} is {_figure(version.metric)}, worse than {_figure(before.metric)} of version "
            f"{before.number} in production"
        )
    return against


def _cost(version: Version) -> float:
    """The metric, by which the lower is the better; none at all is worst."""
    return math.inf if version.metric is None else version.metric


def _figure(metric: float | None) -> str:
    return "unknown" if metric is None else f"{metric:g} s"


def _notes(version: Version, before: Version | None) -> list[str]:
    if version.manifest is None or before is None or before.manifest is None:
        return []
    notes = []
    if version.manifest.data_fingerprint != before.manifest.data_fingerprint:
        notes.append("trained on other data")
    # Versions of an older export name no tracks: two of them are not told apart by that.
    if version.manifest.verification.get("fingerprint") != before.manifest.verification.get("fingerprint"):
        notes.append("measured on other tracks")
    if not notes:
        return []
    return [f"{' and '.join(notes)} than version {before.number} before it, so that their figures may not compare"]


def _change(
    store: VersionStore,
    record: Record,
    version: Version,
    kind: Literal["promote", "rollback"],
    reason: str | None,
    overridden: tuple[str, ...],
    notes: list[str],
    server: LiveServer | None,
    gpu: bool | None,
) -> Promotion:
    assert version.spec is not None
    labels = record.labels
    before = find_production(store, labels)
    apart = out_of_step(store, labels)
    if apart is not None:
        notes = [f"mended: {apart}", *notes]
    change = Change(
        version=version.number,
        previous=labels.production,
        kind=kind,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        metric=version.metric,
        previous_metric=before.metric if before is not None else None,
        reason=reason,
        overridden=overridden,
    )
    config = store.read(CONFIG_FILE)
    text = config.text or ""
    pinned = config_pbtxt.pinned(
        text, version=version.number, spec=version.spec, gpu=on_gpu(text) if gpu is None else gpu
    )
    running = server.config() if server is not None else None
    if server is not None and (untried := try_out(store, version)) is not None:
        notes = [*notes, untried]
    again = version.number == labels.production
    try:
        if server is not None and running is not None:
            server.serve(running, text, pinned)
        record.replace(store, labels if again else labels.after(change))
        if pinned != text:
            try:
                store.write(CONFIG_FILE, pinned, over=config)
            except BaseException:
                Record.of(store).replace(store, labels)
                raise
    except BaseException as error:
        if server is not None and running is not None:
            _take_back(server, running, error)
        raise
    return Promotion(change=change, notes=tuple(notes))


def _take_back(server: LiveServer, running: str, error: BaseException) -> None:
    """Let the server run by its old configuration again, after `error`."""
    try:
        if server.config() != running:
            server.load(running)
    except ReentryError as second:
        raise RepositoryError(
            f"{error}; and the server could not be taken back: {second}",
            fix="promote the version in production again with --url",
        ) from error


def out_of_step(store: VersionStore, labels: Labels) -> str | None:
    """Where config.pbtxt serves another version than the one in production: both, in words."""
    pinned = pinned_versions(store.read(CONFIG_FILE))
    if labels.production is None or pinned == [labels.production]:
        return None
    serves = "version " + ", ".join(map(str, pinned)) if pinned else "no pinned version"
    return f"config.pbtxt serves {serves}, and version {labels.production} is in production"


def mend(store: VersionStore, labels: Labels) -> list[str]:
    """Pin the version in production again, where config.pbtxt serves another."""
    apart = out_of_step(store, labels)
    production = find_production(store, labels)
    if apart is None or production is None or production.spec is None:
        return []
    config = store.read(CONFIG_FILE)
    text = config.text or ""
    pinned = config_pbtxt.pinned(text, version=production.number, spec=production.spec, gpu=on_gpu(text))
    store.write(CONFIG_FILE, pinned, over=config)
    return [f"mended: {apart}"]


def pinned_versions(config: Stored) -> list[int]:
    """The versions that the text of a config.pbtxt pins."""
    return list(config_pbtxt.read(config.text or "").version_policy.specific.versions)


def on_gpu(config: str) -> bool:
    """Whether the text of a config.pbtxt runs the network on GPUs."""
    groups = config_pbtxt.read(config).instance_group
    return any(group.kind == group.KIND_GPU for group in groups)
