"""Tokens of people: JSON web tokens of an OpenID Connect provider, checked against its public keys."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import jwt
import msgspec

from gateway.accounts.principal import Scope
from gateway.problems import Problem
from gateway.settings import GatewaySettings

_ALGORITHMS: Final = ("RS256", "ES256")
_LONGEST_TOKEN: Final = 8_192
"""Characters of the longest token."""
_LEEWAY_SECONDS: Final = 30
"""Allowed difference between the clocks of the provider and of this machine, s."""
_FRESH_SECONDS: Final = 300.0
"""Age at which the public keys are fetched again, s."""
_OLDEST_SECONDS: Final = 3_600.0
"""Age up to which the keys are used while the provider is away, s."""
_FETCH_SECONDS: Final = 10.0
"""Time between two fetches, s: tokens with invented key ids cause no more."""
_TIMEOUT: Final = 3.0
"""Longest time of a fetch, s."""
_LARGEST_BODY: Final = 256 * 2**10
"""Bytes of the largest answer of the provider."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """The claims of a valid token that the gateway uses."""

    subject: str
    account_id: str
    scopes: frozenset[str]


class Tokens:
    """Checks tokens. `open` makes the HTTP client that fetches the public keys."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._issuer = settings.oidc_issuer
        self._audience = settings.oidc_audience
        self._url = settings.oidc_keys_url
        self._client: httpx.AsyncClient | None = None
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = -float("inf")
        self._fetch: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Fetch the keys once, and close the client at the end."""
        async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False) as self._client:
            self._begin_fetch()
            try:
                yield
            finally:
                if self._fetch is not None:
                    self._fetch.cancel()

    async def check(self, token: str) -> Person:
        """Return the person who was given a token.

        Raises:
            Problem: the token is invalid or expired, or no keys of the provider are known.
        """
        if len(token) > _LONGEST_TOKEN:
            raise _invalid("the token is too long", expected=f"at most {_LONGEST_TOKEN} characters")
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise _invalid("the token is malformed", expected="a JSON web token, or a key rk_...") from error
        key = await self._key(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise _invalid("the token is signed with an unknown key", expected="a `kid` of the provider's keys")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError as error:
            raise _invalid("the token has expired") from error
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise _invalid(f"the token is invalid: {type(error).__name__.removesuffix('Error')}") from error
        return _person(claims)

    async def _key(self, key_id: str) -> jwt.PyJWK | None:
        now = time.monotonic()
        key = self._keys.get(key_id)
        is_due = key is None or now - self._fetched_at > _FRESH_SECONDS
        if is_due and now - self._tried_at > _FETCH_SECONDS:
            self._begin_fetch()
        if key is None and self._fetch is not None:
            await asyncio.shield(self._fetch)
            key = self._keys.get(key_id)
        if now - self._fetched_at > _OLDEST_SECONDS:
            raise Problem("identity-unavailable", "the keys of the identity provider are not known")
        return key

    def _begin_fetch(self) -> None:
        self._tried_at = time.monotonic()
        self._fetch = asyncio.create_task(self._fetch_keys())

    async def _fetch_keys(self) -> None:
        assert self._client is not None
        try:
            async with asyncio.timeout(_TIMEOUT), self._client.stream("GET", self._url) as answer:
                answer.raise_for_status()
                body = bytearray()
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > _LARGEST_BODY:
                        raise ValueError(f"more than {_LARGEST_BODY} bytes")  # noqa: TRY301  # the same end as other faults
            keys = await asyncio.to_thread(_read_keys, bytes(body))
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            _log.warning("cannot fetch the keys of the identity provider from %s: %s", self._url, error)
            return
        self._keys, self._fetched_at = keys, time.monotonic()


def _read_keys(body: bytes) -> dict[str, jwt.PyJWK]:
    """Return the usable keys of a JSON web key set by their ids; others, such as those for encryption, are left out.

    Raises:
        ValueError: the body is not a key set.
    """
    keys: dict[str, jwt.PyJWK] = {}
    for each in msgspec.json.decode(body, type=_KeySet).keys:
        if not isinstance(each.get("kid"), str) or each.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(each)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if key.algorithm_name in _ALGORITHMS:
            keys[each["kid"]] = key
    if not keys:
        raise ValueError(f"no key for {' or '.join(_ALGORITHMS)}")
    return keys


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


def _person(claims: dict[str, Any]) -> Person:
    account_id, scope = claims.get("reentry_account"), claims.get("scope", "")
    if not isinstance(account_id, str) or not account_id:
        raise _invalid("the token names no account", expected="a claim reentry_account with the id of an account")
    if not isinstance(scope, str):
        raise _invalid("the token's scopes are malformed", expected="a claim scope such as 'score read'")
    scopes = frozenset(scope.split()) & frozenset(map(str, Scope))
    return Person(subject=claims["sub"], account_id=account_id, scopes=scopes)


def _invalid(detail: str, *, expected: str | None = None) -> Problem:
    return Problem("unauthorized", detail, where="Authorization", expected=expected)
