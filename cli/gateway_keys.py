"""The commands `reentry gateway accounts` and `reentry gateway keys`, which work on the database itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cli.options import GatewayConfigFile, Json
from cli.tables import print_table
from reentry.errors import ConfigError, InputError

if TYPE_CHECKING:
    from gateway.accounts.directory import AccountEntry, Directory, KeyEntry

accounts = typer.Typer(
    no_args_is_help=True,
    help="Create and list the accounts of a gateway.",
    epilog="Example: `reentry gateway accounts list`",
)
keys = typer.Typer(
    no_args_is_help=True,
    help="Create, list and revoke the keys of a gateway.",
    epilog="Example: `reentry gateway keys list`",
)

Answer = TypeVar("Answer")
_PAGE = 1_000


@accounts.command("create")
def create_account(
    name: Annotated[str, typer.Argument(help="Name of the account.")],
    tier: Annotated[str, typer.Option(help="Tier of its limits.")] = "standard",
    config: GatewayConfigFile = None,
    as_json: Json = False,
) -> None:
    """Create an account.

    Example: `reentry gateway accounts create "western range" --tier premium`
    """

    async def create(directory: Directory) -> AccountEntry:
        return await directory.account(await directory.create_account(name, tier))

    account = _with_directory(config, create)
    typer.echo(json.dumps(asdict(account)) if as_json else f"account  {account.id}   ({account.name}, {account.tier})")


@accounts.command("list")
def list_accounts(config: GatewayConfigFile = None, as_json: Json = False) -> None:
    """List the accounts.

    Example: `reentry gateway accounts list`
    """

    async def read(directory: Directory) -> list[AccountEntry]:
        found, cursor = await directory.accounts(limit=_PAGE)
        while cursor:
            more, cursor = await directory.accounts(limit=_PAGE, cursor=cursor)
            found += more
        return found

    found = _with_directory(config, read)
    if as_json:
        typer.echo(json.dumps([asdict(account) for account in found]))
    else:
        rows = [(account.id, account.name, account.tier, _time(account.created_at)) for account in found]
        print_table(("id", "name", "tier", "created"), rows)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Purpose of the key.")],
    scope: Annotated[
        list[str],
        typer.Option(
            help="Scope: score, jobs, read, outcomes, stream, experiments or admin. Repeat the option for several."
        ),
    ],
    account: Annotated[str, typer.Option(help="Name or id of the account.")] = "default",
    days: Annotated[
        float | None, typer.Option(help="Days after which the key expires.  [default: it does not expire]")
    ] = None,
    config: GatewayConfigFile = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it, once: the database holds only its hash.

    Example: `reentry gateway keys create "scorer of site 2" --account "western range" --scope score --scope read`
    """
    from gateway.accounts.principal import Scope

    unknown = sorted(set(scope) - set(Scope))
    if unknown:
        raise InputError("unknown scope", expected=", ".join(Scope), got=", ".join(unknown))
    expires_at = None if days is None else time.time() + days * 86_400

    async def create(directory: Directory) -> tuple[KeyEntry, str]:
        owner = await directory.account(account)
        key_id, text = await directory.create_key(
            owner.id, name=name, scopes=[Scope(each) for each in scope], expires_at=expires_at
        )
        return await directory.key(key_id), text

    entry, text = _with_directory(config, create)
    if as_json:
        typer.echo(json.dumps(asdict(entry) | {"key": text}))
    else:
        typer.echo(f"key      {text}   (shown once; store it)")


@keys.command("list")
def list_keys(
    account: Annotated[str | None, typer.Option(help="Name or id of the account.  [default: all accounts]")] = None,
    config: GatewayConfigFile = None,
    as_json: Json = False,
) -> None:
    """List keys, the newest first. Their secrets are not stored.

    Example: `reentry gateway keys list --account default`
    """

    async def read(directory: Directory) -> list[KeyEntry]:
        account_id = None if account is None else (await directory.account(account)).id
        found, cursor = await directory.keys(account_id, limit=_PAGE)
        while cursor:
            more, cursor = await directory.keys(account_id, limit=_PAGE, cursor=cursor)
            found += more
        return found

    found = _with_directory(config, read)
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in found]))
    else:
        columns = ("id", "account", "name", "scopes", "created", "expires", "revoked")
        rows = [(key.id, key.account, key.name, " ".join(key.scopes), *map(_time, _times(key))) for key in found]
        print_table(columns, rows)


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key: the second part of the key itself.", metavar="ID")],
    config: GatewayConfigFile = None,
    as_json: Json = False,
) -> None:
    """Revoke a key. Every gateway process refuses it within about a second.

    Example: `reentry gateway keys revoke 4f0q1b7xk2ma`
    """

    async def revoke(directory: Directory) -> KeyEntry:
        return await directory.revoke(key_id)

    entry = _with_directory(config, revoke)
    typer.echo(json.dumps(asdict(entry)) if as_json else f"revoked  {entry.id}   ({entry.account}, {entry.name})")


def _with_directory(config: Path | None, action: Callable[[Directory], Awaitable[Answer]]) -> Answer:
    """Run an action on the accounts and keys in the database of the settings.

    Raises:
        InputError: the action is not possible.
        ConfigError: the database does not answer, or has no tables.
    """
    from sqlalchemy.exc import ProgrammingError

    from gateway.accounts.directory import Directory
    from gateway.database.engine import Database, DatabaseUnavailableError
    from gateway.database.migrate import migrate
    from gateway.problems import Problem
    from gateway.settings import read_gateway_settings

    settings = read_gateway_settings(config)

    async def run() -> Answer:
        database = Database(settings)
        try:
            return await action(Directory(database, settings))
        finally:
            await database.close()

    place = str(settings.data) if settings.embedded else "database_url"
    try:
        if settings.embedded:
            migrate(settings)
        return asyncio.run(run())
    except Problem as problem:
        fields: dict[str, Any] = {name: problem.fields[name] for name in ("where", "expected", "got", "fix")}
        raise InputError(str(problem), **fields) from problem
    except DatabaseUnavailableError as error:
        raise ConfigError("the database does not answer", where=place, got=str(error)) from error
    except ProgrammingError as error:
        raise ConfigError(
            "the tables of the database are missing or old", where=place, fix="run `reentry gateway migrate`"
        ) from error


def _times(key: KeyEntry) -> tuple[float | None, ...]:
    return key.created_at, key.expires_at, key.revoked_at


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
