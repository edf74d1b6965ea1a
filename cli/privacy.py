"""The commands `reentry privacy ...`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.interruption import interruption
from cli.options import Json, LakeLocation, LandingLocation, PipelineConfig

privacy = typer.Typer(
    no_args_is_help=True,
    help="Pseudonyms of sensors and operators: keys, erasure, audit.",
    epilog="Example: `reentry privacy audit --log ingest.log`",
)


@privacy.command("new-key")
def new_key(path: Annotated[Path, typer.Argument(help="File to write; it must not exist.")]) -> None:
    """Write a file with a new key for the pseudonyms, which only its owner can read.

    Its content can also be stored as a secret in AWS Secrets Manager, or in an environment variable. Without the keys,
    nothing can be ingested and nobody can be erased by id: keep a copy apart from the lake.

    Example: `reentry privacy new-key artifacts/pseudonym-keys.json`
    """
    from pipeline.privacy.keys import new_keys

    typer.echo(f"{path}: key {new_keys(path).current}")


@privacy.command()
def rekey(
    config: PipelineConfig = None,
    lake: LakeLocation = None,
    add_key: Annotated[bool, typer.Option("--add-key", help="Add a new key to the secret first.")] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also delete the files of earlier versions with older pseudonyms.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Give all rows of the tables raw, clean and features the pseudonyms of the newest key.

    Plain ids are not needed. Rows of the same sensor keep a common pseudonym, whenever they were ingested. After an
    interruption, the command without --add-key finishes the rotation; with it, the command adds one more key, which all
    rows get. Training runs that name a purged version of a table are marked as not reproducible.

    Example: `reentry privacy rekey --add-key`
    """
    from pipeline.privacy.rekey import rekey as rotate
    from pipeline.settings import read_pipeline_settings

    settings = read_pipeline_settings(config, lake=lake)
    with interruption("the rewritten rows keep their new pseudonyms; the command without --add-key does the others"):
        report = rotate(settings, new_key=add_key, purge=purge)
    typer.echo(json.dumps(report.as_dict()) if as_json else report.summary())


@privacy.command()
def erase(
    config: PipelineConfig = None,
    sensor: Annotated[str | None, typer.Option(help="Id of a sensor, as it stands in landing files.")] = None,
    operator: Annotated[str | None, typer.Option(help="Id of an operator, as it stands in landing files.")] = None,
    track: Annotated[str | None, typer.Option(help="Id of a track.")] = None,
    landing: LandingLocation = None,
    lake: LakeLocation = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be erased.")] = False,
    delete_waiting: Annotated[
        bool, typer.Option("--delete-waiting", help="Also delete landing files that were not ingested yet.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Erase a sensor, an operator or a track from all versions of all tables and from the landing folder.

    Landing files that hold the id are deleted as a whole, after their rows are in the table raw. Whole tracks with an
    erased row leave the tables clean, features and predictions; `reentry lake clean` and the later commands rebuild
    them from the other rows. Earlier versions of objects in a versioned bucket are deleted too. Training runs that name
    a version that lost rows are marked as not reproducible. Afterwards everything is searched again. The output names
    an erasure id and not the id itself. After an interruption, the same command finishes the erasure. With
    --dry-run, --json also lists the tracks, which other systems may know.

    A command line is visible to other users of the machine; `--sensor -` reads the id from standard input.

    Example: `reentry privacy erase --sensor - --dry-run`
    """
    given = {kind: name for kind, name in (("sensor", sensor), ("operator", operator), ("track", track)) if name}
    if len(given) != 1:
        raise typer.BadParameter("give one of --sensor, --operator and --track")
    ((kind, name),) = given.items()
    from pipeline.privacy.erase import erase as erase_subject
    from pipeline.settings import read_pipeline_settings

    settings = read_pipeline_settings(config, lake=lake, landing=landing)
    name = typer.get_text_stream("stdin").readline() if name == "-" else name
    with interruption("a part is erased; the same command finishes the erasure"):
        report = erase_subject(settings, kind, name, dry_run=dry_run, delete_waiting=delete_waiting)
    typer.echo(json.dumps(report.as_dict()) if as_json else report.summary())


@privacy.command()
def audit(
    config: PipelineConfig = None,
    search: Annotated[
        Path | None,
        typer.Option(help="File with one plain id on each line.  [default: the ids in the landing folder]"),
    ] = None,
    log: Annotated[list[Path] | None, typer.Option(help="Log file to search; can be repeated.")] = None,
    landing: LandingLocation = None,
    lake: LakeLocation = None,
    as_json: Json = False,
) -> None:
    """Search for plain ids where none may be, and count the rows of each key.

    All files of all tables are searched, those of earlier versions and the tables' logs included, and all recorded
    training runs with their files. An id of fewer than six characters is searched only in columns of ids and after a
    name such as sensor_id. Landing files that are older than the retention are reported. Findings name the place, not
    the value; the exit status is then 1.

    Example: `reentry privacy audit --log ingest.log`
    """
    from pipeline.privacy.audit import audit as search_all
    from pipeline.settings import read_pipeline_settings

    settings = read_pipeline_settings(config, lake=lake, landing=landing)
    report = search_all(settings, search=search, logs=log or [])
    typer.echo(json.dumps(report.as_dict()) if as_json else report.summary())
    if report.failed:
        raise typer.Exit(code=1)
