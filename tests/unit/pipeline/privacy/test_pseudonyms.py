"""Pseudonyms: their values, their separation by kind and key, and their rotation."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from pipeline.privacy.keys import PseudonymKeys
from pipeline.privacy.pseudonyms import OPERATOR, SENSOR, pseudonyms, pseudonyms_by_key, rotated, usual_form

ONE, TWO, THREE = (PseudonymKeys(keys=tuple(bytes([each]) * 32 for each in range(count))) for count in (1, 2, 3))


def test_a_pseudonym_of_one_key_is_63_bits_of_the_hmac() -> None:
    digest = hmac.new(bytes(32), b"sensor:4711001", hashlib.sha256).hexdigest()
    assert pseudonyms(SENSOR, ["4711001"], ONE) == {"4711001": int(digest[:16], 16) >> 1}


def test_each_further_key_is_applied_to_the_pseudonym_before_it() -> None:
    (first,) = pseudonyms(SENSOR, ["4711001"], ONE).values()
    digest = hmac.new(bytes([1]) * 32, f"sensor:{first}".encode(), hashlib.sha256).hexdigest()
    assert pseudonyms(SENSOR, ["4711001"], TWO) == {"4711001": int(digest[:16], 16) >> 1}


def test_equal_ids_of_two_kinds_have_different_pseudonyms() -> None:
    assert pseudonyms(SENSOR, ["7"], ONE) != pseudonyms(OPERATOR, ["7"], ONE)


def test_rotation_gives_old_rows_the_pseudonyms_of_new_rows() -> None:
    names = [str(number) for number in range(200)]
    new = pseudonyms(SENSOR, names, THREE)
    for old_keys in (ONE, TWO, THREE):
        old = pseudonyms(SENSOR, names, old_keys)
        changed = rotated(SENSOR, old.values(), old_keys.current, THREE)
        assert {name: changed[old[name]] for name in names} == new


def test_pseudonyms_by_key_are_those_that_rows_of_each_key_have() -> None:
    found = pseudonyms_by_key(OPERATOR, "op-1", THREE)
    assert list(found) == list(THREE.ids)
    assert list(found.values()) == [pseudonyms(OPERATOR, ["op-1"], keys)["op-1"] for keys in (ONE, TWO, THREE)]


def test_pseudonyms_are_63_bit_numbers_without_collisions() -> None:
    values = set(pseudonyms(SENSOR, map(str, range(10_000)), TWO).values())
    assert len(values) == 10_000
    assert min(values) >= 0
    assert 2**62 < max(values) < 2**63


@pytest.mark.parametrize(
    ("text", "form"),
    [("007", "7"), ("7.0", "7"), ("+7", "7"), ("7e3", "7000"), (str(2**62 + 1), str(2**62 + 1)), ("7.5", "7.5")]
    + [(text, text) for text in ("op-7", "nan", "1e999", "")],
)
def test_whole_numbers_have_one_form(text: str, form: str) -> None:
    assert usual_form(text) == form
