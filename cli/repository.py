"""`reentry repository`: the versions of the network in a model repository."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import DEFAULT_REPOSITORY, Json, ModelName, RepositoryLocation
from cli.tables import print_table
from reentry.schema import REENTRY_LSTM

if TYPE_CHECKING:
    from registry.live_server import LiveServer
    from registry.promotion import Promotion

repository = typer.Typer(
    no_args_is_help=True,
    help="List, compare, promote and remove the versions of the network.",
    epilog="Example: `reentry repository list && reentry repository promote candidate --url http://127.0.0.1:8000`",
)

Url = Annotated[
    str | None,
    typer.Option(help="Also switch this running server, without downtime: http://HOST:8000.", metavar="URL"),
]
Reason = Annotated[
    str | None, typer.Option(help="Reason for the change, recorded in labels.json with the metrics.", metavar="TEXT")
]

_log = logging.getLogger(__name__)


@repository.command("list")
def list_versions(
    place: RepositoryLocation = DEFAULT_REPOSITORY, model: ModelName = REENTRY_LSTM.name, as_json: Json = False
) -> None:
    """List the versions with labels, format, metric on the validation tracks, size and gate result.

    Example: `reentry repository list`
    """
    from registry.candidate import candidate_version
    from registry.inventory import find_all, pin_mismatch, row_of
    from registry.labels import Record
    from registry.open import open_store
    from registry.store import CONFIG_FILE

    store = open_store(place, model)
    labels = Record.of(store).labels
    metric, unit = store.model.metric, store.model.unit
    candidate = candidate_version(store)
    rows = [row_of(version, labels, metric, served_candidate=candidate) for version in find_all(store)]
    _log.debug("found %d versions in %s", len(rows), place)
    if as_json:
        typer.echo(json.dumps(rows))
    elif not rows:
        typer.echo("no version is installed; `reentry export CHECKPOINT` installs one")
    else:
        print_table(
            ("version", "labels", "format", "created", f"{metric}, {unit}" if unit else metric, "kB", "gate"),
            (
                (
                    *(row["version"], ", ".join(row["labels"]), row["format"], row["created"]),
                    "" if row[metric] is None else f"{row[metric]:.3f}",
                    *(f"{row['bytes'] / 1000:,.1f}", row["gate"]),
                )
                for row in rows
            ),
        )
        for row in rows:
            if row["problem"] is not None:
                typer.echo(f"version {row['version']}: {row['problem']}")
    mismatch = pin_mismatch(labels, store.read(CONFIG_FILE))
    if mismatch is not None:
        _log.warning(f"{mismatch}; fix: reentry repository promote production")


@repository.command()
def show(
    version: Annotated[str, typer.Argument(help="Version: a number, `candidate` or `production`.")],
    place: RepositoryLocation = DEFAULT_REPOSITORY,
    model: ModelName = REENTRY_LSTM.name,
    as_json: Json = False,
) -> None:
    """Show all details of a version, and whether its files match its manifest.

    Example: `reentry repository show candidate`
    """
    from dataclasses import asdict

    from registry.candidate import candidate_version
    from registry.inventory import faults_of, find, numbered
    from registry.labels import Record, labels_of
    from registry.open import open_store

    store = open_store(place, model)
    labels = Record.of(store).labels
    found = find(store, numbered(store, labels, version))
    faults = faults_of(store, found)
    shown = {
        "version": found.number,
        "place": store.place(found.number),
        "labels": labels_of(labels, found.number, served_candidate=candidate_version(store)),
        "whole": not faults,
        "faults": faults,
        "manifest": asdict(found.manifest) if found.manifest is not None else None,
        "history": [asdict(change) for change in labels.history if change.version == found.number],
    }
    if as_json:
        typer.echo(json.dumps(shown))
        return
    for name, value in _lines(shown):
        typer.echo(f"{name}: {value}")


@repository.command()
def promote(
    version: Annotated[
        str, typer.Argument(help="Version: a number, `candidate`, or `production` to repair config.pbtxt.")
    ],
    place: RepositoryLocation = DEFAULT_REPOSITORY,
    model: ModelName = REENTRY_LSTM.name,
    url: Url = None,
    reason: Reason = None,
    gpu: Annotated[
        bool | None,
        typer.Option("--gpu/--cpu", help="Run the version on a GPU or the CPU.  [default: like production]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Promote a version to production: config.pbtxt pins it, and the server at `--url` loads it.

    The version must have passed the gate and must not be worse than production; `--reason` overrides both rules and is
    recorded. Its files must always match its manifest. If the server cannot load the version, nothing changes.

    Example: `reentry repository promote candidate --url http://127.0.0.1:8000`
    """
    from pipeline.retraining.aliases import mirror_labels
    from registry.inventory import numbered
    from registry.labels import Record
    from registry.open import open_store
    from registry.promotion import promote as promote_version

    store = open_store(place, model)
    number = numbered(store, Record.of(store).labels, version)
    promotion = promote_version(store, number, reason=reason, server=_server(url, model), gpu=gpu)
    _print_promotion(promotion, url, as_json=as_json)
    mirror_labels(store)


@repository.command()
def rollback(
    place: RepositoryLocation = DEFAULT_REPOSITORY,
    model: ModelName = REENTRY_LSTM.name,
    to: Annotated[
        int | None, typer.Option(help="Version to restore.  [default: the previous production version]")
    ] = None,
    url: Url = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Restore the version that was in production before; a second rollback restores the one before that.

    Example: `reentry repository rollback --url http://127.0.0.1:8000 --reason "onsets too late"`
    """
    from pipeline.retraining.aliases import mirror_labels
    from registry.open import open_store
    from registry.promotion import rollback as roll_back

    store = open_store(place, model)
    promotion = roll_back(store, to=to, reason=reason, server=_server(url, model))
    _print_promotion(promotion, url, as_json=as_json)
    mirror_labels(store)


@repository.command()
def sync(
    place: RepositoryLocation = DEFAULT_REPOSITORY,
    model: ModelName = REENTRY_LSTM.name,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the aliases that would change; change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the aliases `production` and `candidate` in MLflow equal to the labels of the repository.

    Promotions and exports keep them equal. After one that could not reach MLflow, this command repairs the aliases.

    Example: `reentry repository sync --dry-run`
    """
    from pipeline.retraining.aliases import sync_aliases
    from registry.open import open_store

    changes = sync_aliases(open_store(place, model), dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps({"changes": changes, "dry_run": dry_run}))
    else:
        typer.echo("\n".join(changes) or "the aliases equal the labels")


@repository.command()
def compare(
    version: Annotated[str, typer.Argument(help="Version: a number or `candidate`.")] = "candidate",
    place: RepositoryLocation = DEFAULT_REPOSITORY,
    url: Url = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop to serve the version that is compared.")] = False,
    as_json: Json = False,
) -> None:
    """Serve a second version beside production, as the model `reentry_candidate`, to compare the two.

    The version in production answers all requests for the other models as before. The second version keeps its number
    until the next `compare`, also if the label `candidate` moves to a newer export.

    Example: `reentry repository compare candidate --url http://127.0.0.1:8000`
    """
    from dataclasses import asdict

    from reentry.schema import CANDIDATE_ENSEMBLE
    from registry.candidate import serve_candidate, stop_candidate
    from registry.inventory import numbered
    from registry.labels import Record
    from registry.open import open_store

    store = open_store(place, REENTRY_LSTM.name)
    server = _server(url, REENTRY_LSTM.name)
    if stop:
        number = stop_candidate(store, server=server)
        typer.echo(
            json.dumps({"stopped": number, "url": url})
            if as_json
            else f"version {number} is no longer served as {CANDIDATE_ENSEMBLE.name}"
        )
        return
    served = serve_candidate(store, numbered(store, Record.of(store).labels, version), server=server)
    if as_json:
        typer.echo(json.dumps(asdict(served) | {"model": CANDIDATE_ENSEMBLE.name, "url": url}))
        return
    for warning in served.warnings:
        _log.warning(warning)
    beside = "" if served.production is None else f", beside version {served.production} in production"
    where = f" at {url}" if url is not None else ""
    typer.echo(f"version {served.version} is served as {CANDIDATE_ENSEMBLE.name}{beside}{where}")


@repository.command()
def prune(
    place: RepositoryLocation = DEFAULT_REPOSITORY,
    model: ModelName = REENTRY_LSTM.name,
    keep: Annotated[int, typer.Option(min=0, help="Number of newest versions that are always kept.")] = 5,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the versions that would be removed; remove nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove old versions, but never one that is served or labelled, or that a rollback would restore.

    Example: `reentry repository prune --keep 3 --dry-run`
    """
    from registry.open import open_store
    from registry.promotion import prune as prune_versions

    numbers, notes = prune_versions(open_store(place, model), keep=keep, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps({"removed": numbers, "dry_run": dry_run, "notes": notes}))
        return
    for note in notes:
        _log.info(note)
    removed = ", ".join(map(str, numbers)) or "nothing"
    typer.echo(f"would remove {removed}" if dry_run else f"removed {removed}")


@repository.command()
def diff(
    versions: Annotated[list[str] | None, typer.Argument(help="Two versions, by number or label.")] = None,
    place: RepositoryLocation = DEFAULT_REPOSITORY,
    model: ModelName = REENTRY_LSTM.name,
    url: Annotated[
        str | None,
        typer.Option(help="Compare config.pbtxt with the configuration of this running server.", metavar="URL"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two versions, or the configuration of a running server with that of the repository.

    The exit status is 0 whether they differ or not.

    Example: `reentry repository diff production candidate`
    """
    from registry.config_pbtxt import differences as config_differences
    from registry.inventory import differences, numbered
    from registry.labels import Record
    from registry.open import open_store
    from registry.store import CONFIG_FILE, manifest_of

    if (len(versions or []), url is None) not in ((2, True), (0, False)):
        raise typer.BadParameter("give two versions, or --url")
    store = open_store(place, model)
    server = _server(url, model)
    if server is not None:
        lines = config_differences(store.read(CONFIG_FILE).text or "", server.config())
        typer.echo(json.dumps(lines) if as_json else "\n".join(lines) or "no difference")
        return
    labels = Record.of(store).labels
    one, other = (manifest_of(store, numbered(store, labels, name)) for name in versions or [])
    found = differences(one, other)
    if as_json:
        typer.echo(json.dumps({path: list(values) for path, values in found.items()}))
        return
    columns = ("", f"version {one.version}", f"version {other.version}")
    print_table(columns, ((path, *values) for path, values in found.items()))


def _server(url: str | None, model: str) -> LiveServer | None:
    from registry.live_server import LiveServer

    return None if url is None else LiveServer(url, model, key=os.environ.get("REENTRY_CONTROL_KEY", ""))


def _print_promotion(promotion: Promotion, url: str | None, *, as_json: bool) -> None:
    from dataclasses import asdict

    change = promotion.change
    if as_json:
        remarks = {"warnings": promotion.warnings, "notes": promotion.notes}
        typer.echo(json.dumps(asdict(change) | remarks | {"url": url}))
        return
    for note in promotion.notes:
        _log.info(note)
    for warning in promotion.warnings:
        _log.warning(warning)
    before = f", after version {change.previous}" if change.previous not in (None, change.version) else ""
    where = f" and serves at {url}" if url is not None else ""
    typer.echo(f"version {change.version} is in production{before}{where}")
    for rule in change.overridden:
        typer.echo(f"overridden: {rule}")


def _lines(content: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten a nested mapping into pairs of path and value."""
    found: list[tuple[str, Any]] = []
    for name, value in content.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            found += _lines(value, f"{path}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, entry in enumerate(value):
                found += _lines(entry, f"{path}[{index}].")
        else:
            found.append((path, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value))
    return found
