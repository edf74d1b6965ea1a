from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.accounts import oidc as module
from gateway.accounts.oidc import Person, Tokens
from gateway.database.migrate import migrate
from gateway.problems import Problem
from gateway.settings import GatewaySettings
from tests.gateway_app import running_app

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())


def jwk(key: Any, kid: str, **members: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return algorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} | members


class Provider:
    """An HTTP server with the public keys of an identity provider."""

    def __init__(self) -> None:
        self.keys = [
            jwk(RSA, "rsa"),
            jwk(P256, "p256", alg="ES256"),
            jwk(P384, "p384"),
            jwk(OTHER_RSA, "encryption", use="enc"),
            {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
            {"kty": "unknown", "kid": "unknown"},
        ]
        self.body: bytes | None = None
        """Body in place of the keys."""
        self.status = 200
        self.fetches = 0
        self.gate = threading.Event()
        self.gate.set()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.fetches += 1
                provider.gate.wait(60)
                body = json.dumps({"keys": provider.keys}).encode() if provider.body is None else provider.body
                self.send_response(provider.status)
                self.send_header("location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # a client that stopped reading
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.stop()


def settings_of(provider: Provider, **settings: Any) -> GatewaySettings:
    return GatewaySettings(
        oidc_issuer="https://id.example", oidc_audience="reentry", oidc_keys_url=provider.url, **settings
    )


@asynccontextmanager
async def opened(provider: Provider) -> AsyncIterator[Tokens]:
    tokens = Tokens(settings_of(provider))
    async with tokens.open():
        yield tokens


def claims(**changes: Any) -> dict[str, Any]:
    given = {
        "iss": "https://id.example",
        "aud": "reentry",
        "sub": "anna",
        "exp": time.time() + 300,
        "reentry_account": "acct_1",
        "scope": "openid score read",
    }
    return {name: value for name, value in (given | changes).items() if value is not None}


def token(key: Any = RSA, kid: str | None = "rsa", algorithm: str = "RS256", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={} if kid is None else {"kid": kid})


def unsigned(header: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims()).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def signed_with_the_public_key() -> str:
    """A token that a library accepts which takes the public key for the shared secret of HMAC."""
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header, payload, _ = unsigned({"alg": "HS256", "kid": "rsa"}).split(".")
    import hashlib
    import hmac

    signature = hmac.digest(public, f"{header}.{payload}".encode(), hashlib.sha256)
    return f"{header}.{payload}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


async def refusal(tokens: Tokens, text: str, code: str = "unauthorized") -> str:
    with pytest.raises(Problem) as raised:
        await tokens.check(text)
    assert raised.value.code == code, str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("given", [(RSA, "rsa", "RS256"), (P256, "p256", "ES256")])
def test_a_valid_token_names_person_account_and_scopes(provider: Provider, given: tuple[Any, str, str]) -> None:
    async def main() -> None:
        async with opened(provider) as tokens:
            for audience in ("reentry", ["other", "reentry"]):
                person = await tokens.check(token(*given, aud=audience))
                assert person == Person(subject="anna", account_id="acct_1", scopes=frozenset({"score", "read"}))
            assert provider.fetches == 1

    asyncio.run(main())


ATTACKS = {
    "no algorithm": lambda: unsigned({"alg": "none", "kid": "rsa"}),
    "no algorithm, other case": lambda: unsigned({"alg": "NoNe", "kid": "rsa"}),
    "HMAC with the public key": signed_with_the_public_key,
    "HMAC with a key of the provider": lambda: token("secret" * 8, "shared", "HS256"),
    "key of another": lambda: token(OTHER_RSA),
    "key for encryption": lambda: token(OTHER_RSA, "encryption"),
    "algorithm that is not allowed": lambda: token(P384, "p384", "ES384"),
    "other algorithm of the same key": lambda: token(RSA, "rsa", "RS512"),
    "wrong kind of key": lambda: token(RSA, "p256", "RS256"),
    "no key id": lambda: token(kid=None),
    "unknown key id": lambda: token(kid="invented"),
    "key inside the header": lambda: jwt.encode(
        claims(), OTHER_RSA, "RS256", headers={"jwk": jwk(OTHER_RSA, "rsa"), "kid": "x"}
    ),
    "expired": lambda: token(exp=time.time() - 60),
    "no expiry": lambda: token(exp=None),
    "not yet valid": lambda: token(nbf=time.time() + 300),
    "wrong audience": lambda: token(aud="other"),
    "no audience": lambda: token(aud=None),
    "wrong issuer": lambda: token(iss="https://evil.example"),
    "no subject": lambda: token(sub=None),
    "no account": lambda: token(reentry_account=None),
    "account that is no text": lambda: token(reentry_account=["acct_1"]),
    "scopes that are no text": lambda: token(scope=["admin"]),
    "changed claims": lambda: ".".join([token().split(".")[0], token(sub="bert").split(".")[1], token().split(".")[2]]),
    "huge": lambda: token(padding="x" * 9_000),
    "deep header": lambda: base64.urlsafe_b64encode(b'{"kid":' + b"[" * 5_000).decode() + ".e30.e30",
    "empty parts": lambda: "..",
    "no token": lambda: "hello",
    "not ASCII": lambda: "é.é.é",
}


def test_forged_expired_and_foreign_tokens_are_refused(provider: Provider) -> None:
    async def main() -> None:
        async with opened(provider) as tokens:
            assert await tokens.check(token())
            for name, attack in ATTACKS.items():
                text = attack()
                detail = await refusal(tokens, text)
                assert text not in detail, name

    asyncio.run(main())


def test_a_new_key_of_the_provider_is_found_and_invented_ids_cause_one_fetch_in_ten_seconds(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with opened(provider) as tokens:
            monkeypatch.setattr(module, "_FETCH_SECONDS", 3_600.0)
            await tokens.check(token())
            provider.keys.append(jwk(OTHER_RSA, "new"))
            for number in range(20):
                await refusal(tokens, token(kid=f"invented {number}"))
            assert provider.fetches == 1
            monkeypatch.setattr(module, "_FETCH_SECONDS", 0.0)
            assert (await tokens.check(token(OTHER_RSA, "new"))).subject == "anna"
            assert provider.fetches == 2

    asyncio.run(main())


def test_the_fetch_of_the_keys_delays_no_other_request(provider: Provider) -> None:
    async def main() -> None:
        provider.gate.clear()
        async with opened(provider) as tokens:
            waiting = [asyncio.create_task(tokens.check(token())) for _ in range(10)]
            for _ in range(20):
                await asyncio.sleep(0.005)  # the loop goes round while the provider does not answer
            assert not any(task.done() for task in waiting)
            provider.gate.set()
            assert {person.subject for person in await asyncio.gather(*waiting)} == {"anna"}
            assert provider.fetches == 1

    asyncio.run(main())


def test_tokens_get_503_until_the_keys_are_known_and_old_keys_last_an_hour(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        provider.status = 500
        monkeypatch.setattr(module, "_FETCH_SECONDS", 0.0)
        async with opened(provider) as tokens:
            await refusal(tokens, token(), "identity-unavailable")
            provider.status = 200
            await tokens.check(token())
            monkeypatch.setattr(module, "_FRESH_SECONDS", 0.0)
            provider.status = 500
            for _ in range(3):  # the provider is asked again, and is away
                await tokens.check(token())
            monkeypatch.setattr(module, "_OLDEST_SECONDS", 0.0)
            await refusal(tokens, token(), "identity-unavailable")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"not JSON"),
        (200, b"[]"),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [{"kty": "RSA", "kid": "rsa", "n": "", "e": "AQAB"}]}'),
        (200, b'{"keys": [' + b" " * 300_000 + b"]}"),
        (302, b""),
    ],
)
def test_a_provider_that_answers_with_anything_else_is_away(
    provider: Provider, status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        provider.status, provider.body = status, body
        async with opened(provider) as tokens:
            await refusal(tokens, token(), "identity-unavailable")
        assert provider.fetches == 1
        assert "cannot fetch the keys" in caplog.text

    asyncio.run(main())


def test_a_person_sends_requests_for_an_account_that_exists(provider: Provider, tmp_path: Any) -> None:
    settings = settings_of(provider, data=tmp_path)
    migrate(settings)

    async def main() -> None:
        async with running_app(settings) as gateway:

            async def status(**changes: Any) -> int:
                headers = {"Authorization": f"Bearer {token(**changes)}"}
                return (await gateway.client.get("/v1/keys", headers=headers)).status_code

            account_id = gateway.account_id
            assert await status(reentry_account=account_id, scope="admin") == 200
            assert await status(reentry_account=account_id, scope="score") == 403
            assert await status(reentry_account="acct_none", scope="admin") == 401
            assert (await gateway.client.get("/v1/keys")).status_code == 200  # keys work beside tokens

    asyncio.run(main())
