"""Promotion and rollback of the versions of a model, and pruning of versions that are no longer needed.

Triton serves the version that config.pbtxt pins. labels.json records which version is in production. A promotion
changes the running server first, if one is given, after a trial of the version in a private server; then labels.json,
then config.pbtxt, each in one step. If a step fails, the steps before it are undone. The derived models follow
reentry_lstm before that, see `registry.derived_models`.

A command that is killed in between leaves one of three states. If the server is ahead of the repository, or
a derived model ahead of reentry_lstm, repeating the command completes the promotion, and promoting the version in
production takes it back. If config.pbtxt is behind labels.json, the next command that changes anything repairs it and
reports that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from reentry.errors import ConfigError, ReentryError, RepositoryError
from registry import config_pbtxt
from registry.candidate import candidate_version
from registry.derived_models import derived_models_follow
from registry.inventory import ProductionState, Version, find, find_installed
from registry.labels import Change, Record
from registry.live_server import LiveServer
from registry.rules import comparison_warnings, require_servable, violations
from registry.store import CONFIG_FILE, LABELS_FILE, VersionStore
from registry.trial import try_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Result of a promotion or a rollback."""

    change: Change
    warnings: tuple[str, ...] = ()
    """Warnings for the user, one line each: the version had no trial, or its metrics may not be comparable."""
    notes: tuple[str, ...] = ()
    """Repairs that the command made, one line each."""


def promote(
    store: VersionStore,
    number: int,
    *,
    reason: str | None = None,
    server: LiveServer | None = None,
    gpu: bool | None = None,
) -> Promotion:
    """Bring a version into production; with the version in production, repair the server or config.pbtxt.

    Args:
        store: the versions of the model.
        number: the version to promote.
        reason: overrides the gate and the metric, and is recorded.
        server: running server that changes to the version too, without interruption.
        gpu: whether the version runs on GPUs; None keeps the processor in config.pbtxt.

    Raises:
        RepositoryError: a rule forbids it, the trial failed, or the store cannot be written; nothing has changed.
        ServerError, ClientError: the server cannot load the version or does not answer; nothing has changed.
    """
    state = ProductionState.read(store)
    version = state.version(store, number)
    require_servable(store, version)
    violated = violations(store.model, version, state.production) if state.labels.production != number else []
    if violated and not reason:
        raise RepositoryError(
            f"version {number} is not promoted: {'; '.join(violated)}",
            where=store.location,
            fix="export a better version, or override with --reason 'WHY', which is recorded",
        )
    warnings = comparison_warnings(version, state.production)
    return _apply("promote", store, state, version, reason, violated, warnings, server, gpu)


def rollback(
    store: VersionStore, *, to: int | None = None, reason: str | None = None, server: LiveServer | None = None
) -> Promotion:
    """Bring back the version that was in production before, or an earlier one.

    Raises:
        RepositoryError: there is no such version, or its files have changed; nothing has changed.
        ServerError, ClientError: the server cannot load the version or does not answer; nothing has changed.
    """
    state = ProductionState.read(store)
    earlier = state.labels.earlier()
    candidates = earlier if to is None else [number for number in earlier if number == to]
    version = next((found for number in candidates if (found := find_installed(store, number))), None)
    if version is None:
        installed = [str(number) for number in earlier if store.files(number)]
        raise RepositoryError(
            "nothing to roll back to" if to is None else f"version {to} was not in production before",
            where=store.place(LABELS_FILE),
            expected=" or ".join(installed) or "a version that was in production before and still exists",
            fix=f"`reentry repository promote {'VERSION' if to is None else to}`",
        )
    require_servable(store, version)
    return _apply("rollback", store, state, version, reason, [], [], server, None)


def label_exported(
    store: VersionStore, numbers: Sequence[int], *, promote_it: bool = False, reason: str | None = None
) -> Promotion | None:
    """Label the first servable one of newly installed versions as candidate, and promote it if asked to.

    It is also promoted if no version is in production, so that the first export is served.

    Args:
        store: the versions of the model.
        numbers: the new versions, in the order in which the user listed their formats.
        promote_it: promote the candidate, subject to the rules.
        reason: overrides the gate and the metric.

    Returns:
        The promotion; None without one.

    Raises:
        RepositoryError: a rule forbids the promotion; the version stays the candidate.
    """
    versions = (find(store, number) for number in numbers)
    candidate = next((version.number for version in versions if version.spec and version.spec.backend), None)
    if candidate is None:
        return None
    record = Record.of(store)
    record.replace(store, replace(record.labels, candidate=candidate))
    if promote_it or record.labels.production is None:
        return promote(store, candidate, reason=reason)
    return None


def prune(store: VersionStore, *, keep: int, dry_run: bool = False) -> tuple[list[int], list[str]]:
    """Remove old versions.

    Production, the candidate, the served candidate, the version that a rollback returns to, and the version that
    config.pbtxt pins always stay. Unfinished uploads go if they are older than production; newer ones may still be
    running.

    Args:
        store: the versions of the model.
        keep: number of the newest versions that stay.
        dry_run: remove nothing.

    Returns:
        The numbers of the versions removed (with `dry_run`: to be removed), and remarks for the user.

    Raises:
        RepositoryError: no version is in production, or the store cannot be written.
    """
    state = ProductionState.read(store)
    labels = state.labels
    if labels.production is None:
        raise RepositoryError(
            "no version is in production, so it is unknown which versions are still needed",
            where=store.location,
            fix="`reentry repository promote VERSION` first",
        )
    notes = [] if dry_run else state.repair(store)
    versions = [state.version(store, number) for number in store.versions()]
    complete = [version.number for version in versions if not version.unfinished]
    previous = next((number for number in labels.earlier() if number in complete), None)
    newest = complete[max(len(complete) - keep, 0) :]
    pinned = [] if notes else config_pbtxt.pinned_versions(state.config.text or "")
    kept = {labels.production, labels.candidate, candidate_version(store), previous, *pinned, *newest}
    removed = [number for number in complete if number not in kept]
    removed += [version.number for version in versions if version.unfinished and version.number < labels.production]
    for number in sorted(removed):
        if not dry_run:
            store.remove(number)
    return sorted(removed), notes


def _apply(
    kind: Literal["promote", "rollback"],
    store: VersionStore,
    state: ProductionState,
    version: Version,
    reason: str | None,
    overridden: list[str],
    warnings: list[str],
    server: LiveServer | None,
    gpu: bool | None,
) -> Promotion:
    """Change the server, labels.json and config.pbtxt, in this order, or none of them."""
    if server is not None and server.model != store.model.name:
        raise ConfigError("the server is for another model", expected=store.model.name, got=server.model)
    notes = () if state.mismatch is None else (f"repaired: {state.mismatch}",)
    change = Change(
        version=version.number,
        previous=state.labels.production,
        kind=kind,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        metric=version.metric(store.model.metric),
        previous_metric=state.production.metric(store.model.metric) if state.production is not None else None,
        reason=reason,
        overridden=tuple(overridden),
    )
    text = state.config.text or ""
    pinned = state.config_for(version, gpu=gpu)
    current = server.config() if server is not None else None
    if server is not None and (untried := try_out(store, version, text)) is not None:
        warnings = [*warnings, untried]
    try:
        with derived_models_follow(store, version, server) as not_followed:
            if server is not None and current is not None:
                server.serve(current, text, pinned)
            if version.number != state.labels.production:
                state.record.replace(store, state.labels.after(change))
            if pinned != text:
                try:
                    store.write(CONFIG_FILE, pinned, over=state.config)
                except BaseException:
                    Record.of(store).replace(store, state.labels)
                    raise
        warnings = [*warnings, *not_followed]
    except BaseException as error:
        if server is not None and current is not None:
            _restore(server, current, error)
        raise
    return Promotion(change=change, warnings=tuple(warnings), notes=notes)


def _restore(server: LiveServer, config: str, error: BaseException) -> None:
    """Make the server run by its former configuration again, after `error`."""
    try:
        if server.config() != config:
            server.load(config)
    except ReentryError as second:
        raise RepositoryError(
            f"{error}; and the server could not be restored: {second}",
            fix="promote the version in production again with --url",
        ) from error
