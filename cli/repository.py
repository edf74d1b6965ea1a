"""`reentry repository`: the versions of the network, and which of them serves."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.tables import add_row, print_table, table_of
from reentry.schema import REENTRY_LSTM

if TYPE_CHECKING:
    from registry.live_server import LiveServer
    from registry.promotion import Promotion

repository = typer.Typer(
    no_args_is_help=True,
    help="The versions of the network, and which of them serves.",
    epilog="Example: `reentry repository list && reentry repository promote candidate --url http://127.0.0.1:8000`",
)

Location = Annotated[
    str, typer.Option("--repository", help="The model repository: a folder, or s3://BUCKET/PREFIX.", metavar="PLACE")
]
Model = Annotated[str, typer.Option("--model", help="Name of the model in the repository.", metavar="NAME")]
Url = Annotated[
    str | None,
    typer.Option(help="Change this running server too, without a gap: http://HOST:8000.", metavar="URL"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Reason = Annotated[str | None, typer.Option(help="Kept in labels.json, with the figures.", metavar="TEXT")]

DEFAULT = "model_repository"
DEFAULT_MODEL = REENTRY_LSTM.name


@repository.command("list")
def list_versions(place: Location = DEFAULT, model: Model = DEFAULT_MODEL, as_json: Json = False) -> None:
    """List the versions: labels, format, metric on the validation tracks, size, gate.

    Example: `reentry repository list`
    """
    from registry.inventory import find_all, pin_mismatch, row_of
    from registry.labels import Record
    from registry.open import open_store
    from registry.store import CONFIG_FILE

    store = open_store(place, model)
    labels = Record.of(store).labels
    metric, unit = store.model.metric, store.model.unit
    rows = [row_of(version, labels, metric) for version in find_all(store)]
    if as_json:
        typer.echo(json.dumps(rows))
    elif not rows:
        typer.echo("no version is installed; `reentry export CHECKPOINT` installs one")
    else:
        table = table_of(
            "version", "labels", "format", "created", f"{metric}, {unit}" if unit else metric, "kB", "gate"
        )
        for row in rows:
            figure = "" if row[metric] is None else f"{row[metric]:.3f}"
            size = f"{row['bytes'] / 1000:,.1f}"
            add_row(
                table,
                row["version"],
                ", ".join(row["labels"]),
                row["format"],
                row["created"],
                figure,
                size,
                row["gate"],
            )
        print_table(table)
        for row in rows:
            if row["problem"] is not None:
                typer.echo(f"version {row['version']}: {row['problem']}")
    apart = pin_mismatch(labels, store.read(CONFIG_FILE))
    if apart is not None:
        typer.echo(f"warning: {apart}; fix: reentry repository promote production", err=True)


@repository.command()
def show(
    version: Annotated[str, typer.Argument(help="A number, `candidate` or `production`.")],
    place: Location = DEFAULT,
    model: Model = DEFAULT_MODEL,
    as_json: Json = False,
) -> None:
    """Show all that is known of a version, and whether its files are those of its manifest.

    Example: `reentry repository show candidate`
    """
    from dataclasses import asdict

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
        "labels": labels_of(labels, found.number),
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
    version: Annotated[str, typer.Argument(help="A number, `candidate`, or `production` to bring all in step again.")],
    place: Location = DEFAULT,
    model: Model = DEFAULT_MODEL,
    url: Url = None,
    reason: Reason = None,
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--cpu", help="Where it runs.  [default: where production does]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring a version into production: config.pbtxt pins it, and the server at `--url` changes to it.

    It must have passed the gate and be no worse than production; `--reason` overrides both, and is recorded. Its files
    must be those of its manifest in any case. Where the server cannot load it, nothing changes.

    Example: `reentry repository promote candidate --url http://127.0.0.1:8000`
    """
    from registry.inventory import numbered
    from registry.labels import Record
    from registry.open import open_store
    from registry.promotion import promote as bring

    store = open_store(place, model)
    number = numbered(store, Record.of(store).labels, version)
    _tell(bring(store, number, reason=reason, server=_server(url, model), gpu=gpu), url, as_json=as_json)


@repository.command()
def rollback(
    place: Location = DEFAULT,
    model: Model = DEFAULT_MODEL,
    to: Annotated[int | None, typer.Option(help="An earlier version.  [default: the one before]")] = None,
    url: Url = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Bring back the version that was in production before; a second rollback goes back by one more.

    Example: `reentry repository rollback --url http://127.0.0.1:8000 --reason "onsets too late"`
    """
    from registry.open import open_store
    from registry.promotion import rollback as bring_back

    _tell(bring_back(open_store(place, model), to=to, reason=reason, server=_server(url, model)), url, as_json=as_json)


@repository.command()
def prune(
    place: Location = DEFAULT,
    model: Model = DEFAULT_MODEL,
    keep: Annotated[int, typer.Option(min=0, help="How many of the newest stay in any case.")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove old versions; never production, the candidate, or the one that a rollback would take.

    Example: `reentry repository prune --keep 3 --dry-run`
    """
    from registry.open import open_store
    from registry.promotion import prune as remove

    numbers, notes = remove(open_store(place, model), keep=keep, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps({"removed": numbers, "dry_run": dry_run, "notes": notes}))
        return
    for note in notes:
        typer.echo(note, err=True)
    which = ", ".join(map(str, numbers)) or "nothing"
    typer.echo(f"would remove {which}" if dry_run else f"removed {which}")


@repository.command()
def diff(
    versions: Annotated[list[str] | None, typer.Argument(help="Two versions: numbers or labels.")] = None,
    place: Location = DEFAULT,
    model: Model = DEFAULT_MODEL,
    url: Annotated[
        str | None, typer.Option(help="Hold config.pbtxt against this running server's configuration.", metavar="URL")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell how two versions differ, or how a running server's configuration differs from the repository's.

    The status is 0 whether they differ or not.

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
    table = table_of("", f"version {one.version}", f"version {other.version}")
    for path, values in found.items():
        add_row(table, path, *values)
    print_table(table)


def _server(url: str | None, model: str) -> LiveServer | None:
    from registry.live_server import LiveServer

    return None if url is None else LiveServer(url, model, key=os.environ.get("REENTRY_CONTROL_KEY", ""))


def _tell(promotion: Promotion, url: str | None, *, as_json: bool) -> None:
    from dataclasses import asdict

    change = promotion.change
    if as_json:
        typer.echo(json.dumps(asdict(change) | {"notes": promotion.notes, "url": url}))
        return
    for note in promotion.notes:
        typer.echo(note, err=True)
    before = f", after version {change.previous}" if change.previous not in (None, change.version) else ""
    where = f" and serves at {url}" if url is not None else ""
    typer.echo(f"version {change.version} is in production{before}{where}")
    for rule in change.overridden:
        typer.echo(f"overridden: {rule}")


def _lines(content: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of a nested mapping, each with its path."""
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
