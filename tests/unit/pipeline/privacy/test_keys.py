"""Keys of the pseudonyms: stores, rotation, and the errors that must not reveal a key."""

from __future__ import annotations

import base64
import json
import stat
import threading
from pathlib import Path

import pytest

from pipeline.privacy.keys import PseudonymKeys, add_key, as_text, load_keys, new_keys
from reentry.errors import ConfigError


def test_a_new_file_holds_one_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "secret" / "keys.json"
    keys = new_keys(path)
    assert load_keys(f"file:{path}") == keys
    assert len(keys.keys) == 1
    assert len(keys.keys[0]) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    before = new_keys(path)
    with pytest.raises(ConfigError) as caught:
        new_keys(path)
    assert caught.value.problem == "the pseudonym keys exist already"
    assert load_keys(f"file:{path}") == before


def test_an_added_key_follows_the_old_ones_and_keeps_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = new_keys(path)
    second = add_key(f"file:{path}")
    assert second.keys[:1] == first.keys
    assert second.ids[0] == first.current
    assert second.current.startswith("k2-")
    assert second.after(first.current) == second.keys[1:]
    assert second.after(second.current) == ()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_processes_that_add_a_key_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    new_keys(path)
    threads = [threading.Thread(target=add_key, args=(f"file:{path}",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_keys(f"file:{path}").keys) == 5


def test_an_exchanged_or_reordered_key_has_another_id() -> None:
    one, two, three = (bytes([number]) * 32 for number in (1, 2, 3))
    keys = PseudonymKeys(keys=(one, two))
    assert PseudonymKeys(keys=(two, one)).ids != keys.ids
    assert PseudonymKeys(keys=(three, two)).current != keys.current
    with pytest.raises(ConfigError) as caught:
        PseudonymKeys(keys=(two, one)).after(keys.current)
    assert caught.value.got == keys.current


def test_keys_are_not_in_the_text_of_an_object() -> None:
    keys = PseudonymKeys(keys=(b"secret" * 5 + b"..",))
    assert "secret" not in f"{keys} {keys!r}"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"keys": []}',
        '{"keys": ["c2hvcnQ="]}',
        '{"keys": "c2hvcnQ="}',
        json.dumps({"keys": [base64.b64encode(bytes(32)).decode()] * 2}),
        '{"keys": ["SECRETSECRETSECRET!"]}',
    ],
    ids=["empty", "list", "no keys", "short", "text", "equal", "not base64"],
)
def test_an_invalid_secret_is_an_error_that_does_not_quote_it(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEYS", content)
    with pytest.raises(ConfigError) as caught:
        load_keys("env:TEST_KEYS")
    assert caught.value.problem == "the pseudonym keys are invalid"
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_in_place_of_a_reference_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as caught:
        load_keys("bXlzZWNyZXRrZXk=")
    assert "bXlz" not in str(caught.value)


@pytest.mark.parametrize("reference", ["file:/nowhere/keys.json", "env:NO_SUCH_VARIABLE"])
def test_missing_keys_are_an_error(reference: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_keys(reference)
    assert caught.value.problem == "the pseudonym keys are missing"


def test_a_key_file_that_others_may_read_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.json"
    new_keys(path)
    path.chmod(0o644)
    load_keys(f"file:{path}")
    assert "chmod 600" in caplog.text


def test_an_environment_variable_keeps_no_new_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEYS", as_text(PseudonymKeys(keys=(bytes(32),))))
    with pytest.raises(ConfigError) as caught:
        add_key("env:TEST_KEYS")
    assert caught.value.problem == "an environment variable cannot keep a new key"


def test_a_fingerprint_needs_the_key_and_survives_a_rotation() -> None:
    one, two = bytes(32), bytes([1]) * 32
    keys = PseudonymKeys(keys=(one,))
    assert keys.fingerprint("a") == PseudonymKeys(keys=(one, two)).fingerprint("a")
    assert keys.fingerprint("a") != PseudonymKeys(keys=(two,)).fingerprint("a")
    assert keys.fingerprint("a") != keys.fingerprint("b")
