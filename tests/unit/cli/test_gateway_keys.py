from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from gateway.accounts.authentication import Authentication
from gateway.accounts.principal import Principal
from gateway.database.engine import Database
from gateway.problems import Problem
from gateway.settings import GatewaySettings
from reentry.errors import ConfigError, InputError


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REENTRY_GATEWAY_DATA", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> str:
    """Output of `reentry gateway ...`, whose errors are raised."""
    result = CliRunner().invoke(app, ["gateway", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def authenticated(data: Path, key: str) -> Principal:
    async def main() -> Principal:
        settings = GatewaySettings(data=data)
        database = Database(settings)
        try:
            return await Authentication(database, settings).authenticate(key)
        finally:
            await database.close()

    return asyncio.run(main())


def test_an_operator_creates_an_account_and_a_key_lists_and_revokes_it(data: Path) -> None:
    account = run_json("accounts", "create", "western range", "--tier", "premium")
    assert (account["name"], account["tier"]) == ("western range", "premium")
    given = ("--account", "western range", "--scope", "score", "--scope", "read", "--days", "1")
    created = run_json("keys", "create", "site 2", *given)
    principal = authenticated(data, created["key"])
    assert (principal.account_id, principal.key_id, principal.tier_name) == (account["id"], created["id"], "premium")
    assert principal.scopes == {"read", "score"}
    assert created["expires_at"] == pytest.approx(created["created_at"] + 86_400, abs=60)

    listed = run_json("keys", "list")
    assert listed == [{name: value for name, value in created.items() if name != "key"}]
    table = run("keys", "list", "--account", account["id"])
    assert created["id"] in table
    assert created["key"] not in table
    assert run_json("accounts", "list") == [account]

    assert created["id"] in run("keys", "revoke", created["id"])
    with pytest.raises(Problem, match="revoked"):
        authenticated(data, created["key"])


def test_the_key_is_printed_as_text_once(data: Path) -> None:
    run("accounts", "create", "default")
    output = run("keys", "create", "mine", "--scope", "admin")
    key = next(word for word in output.split() if word.startswith("rk_"))
    assert authenticated(data, key).scopes == {"admin"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("keys", "create", "x", "--scope", "root"), "unknown scope"),
        (("keys", "create", "x", "--scope", "read", "--account", "none"), "no such account"),
        (("keys", "revoke", "none"), "no such key"),
        (("accounts", "create", "x", "--tier", "golden"), "the tier does not exist"),
    ],
)
def test_a_mistake_is_one_error_of_the_user(arguments: tuple[str, ...], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        run(*arguments)


def test_a_database_that_does_not_answer_is_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REENTRY_GATEWAY_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    with pytest.raises(ConfigError, match="does not answer") as raised:
        run("keys", "list")
    assert "secret" not in str(raised.value)
