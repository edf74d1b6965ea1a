"""Errors of the gateway as problem details (RFC 9457), and the catalogue of their codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from reentry.errors import ClientError, ReentryError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "https://reentry.invalid/problems/"
"""Prefix of the `type` of a problem. The host is reserved (RFC 2606): the URI identifies a problem and has no page."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One entry of the catalogue."""

    status: int
    """HTTP status."""
    title: str
    """Short text, the same for every occurrence."""
    meaning: str
    """When it occurs, and what to do about it, for the catalogue page."""
    retry_after: bool = False
    """Whether the answer has a header Retry-After."""


CATALOGUE: Final[Mapping[str, Kind]] = {
    "invalid-request": Kind(
        status=400,
        title="Invalid request",
        meaning="The body or a parameter cannot be read. `fix` says what to change.",
    ),
    "unauthorized": Kind(
        status=401,
        title="Authentication required",
        meaning="The key or token is missing, malformed, expired or revoked. Send `Authorization: Bearer rk_...`.",
    ),
    "forbidden": Kind(
        status=403,
        title="Scope missing",
        meaning="The key is valid but lacks the scope of the route. Ask an administrator for a key with it.",
    ),
    "not-found": Kind(
        status=404,
        title="Not found",
        meaning="No such route or resource, or it belongs to another account.",
    ),
    "method-not-allowed": Kind(
        status=405, title="Method not allowed", meaning="The route exists, but not with this method; see `Allow`."
    ),
    "not-acceptable": Kind(
        status=406,
        title="No acceptable media type",
        meaning="The route cannot answer in any type that `Accept` names. `expected` lists the types.",
    ),
    "conflict": Kind(
        status=409,
        title="Conflict with the current state",
        meaning="The resource is in a state that forbids the change.",
    ),
    "request-in-flight": Kind(
        status=409,
        title="A request with this Idempotency-Key is in flight",
        meaning="The first request with the key has not been answered yet. Repeat the request later.",
        retry_after=True,
    ),
    "body-too-large": Kind(
        status=413,
        title="Body too large",
        meaning="The body exceeds the limit in `expected`. Send fewer tracks in one request, or create a job.",
    ),
    "unsupported-media-type": Kind(
        status=415,
        title="Unsupported media type",
        meaning="The route cannot read the type in `Content-Type` or `Content-Encoding`. `expected` lists the types.",
    ),
    "invalid-tracks": Kind(
        status=422,
        title="No track can be scored",
        meaning="Every track has faults, or the table as a whole is unusable. `faults` lists them all.",
    ),
    "idempotency-mismatch": Kind(
        status=422,
        title="The Idempotency-Key belongs to another request",
        meaning="The key was used with another body or route, or by a sender with other scopes, in the last 24 hours. "
        "Use a new key for a new request.",
    ),
    "invalid-value": Kind(
        status=422,
        title="Invalid value",
        meaning="A field of the body or a parameter has an invalid value; see `faults`.",
    ),
    "rate-limited": Kind(
        status=429,
        title="Rate limit exceeded",
        meaning="The account sent more requests or steps than its tier allows, or has too many active jobs, or the key "
        "has too many open streams. Repeat after `Retry-After` seconds.",
        retry_after=True,
    ),
    "internal": Kind(
        status=500,
        title="Internal error",
        meaning="A defect of the gateway. Report the `request_id`; the log has the reason.",
    ),
    "invalid-answer": Kind(
        status=502,
        title="Invalid answer of the model server",
        meaning="Triton's answer contradicts itself or the tracks, so it was not passed on.",
    ),
    "job-abandoned": Kind(
        status=500,
        title="Job given up",
        meaning="Each worker that took the job ended, or failed, before the job made any progress. It is the `error` "
        "of a failed job.",
    ),
    "job-expired": Kind(
        status=504,
        title="Job expired",
        meaning="The deadline of the job passed before it was complete. It is the `error` of an expired job.",
    ),
    "overloaded": Kind(
        status=503,
        title="Overloaded",
        meaning="The queue is full. Repeat after `Retry-After` seconds.",
        retry_after=True,
    ),
    "model-unavailable": Kind(
        status=503,
        title="Model server unavailable",
        meaning="Triton does not answer, or the model is not loaded. Repeat after `Retry-After` seconds.",
        retry_after=True,
    ),
    "database-unavailable": Kind(
        status=503,
        title="Database unavailable",
        meaning="The gateway cannot reach its database, and the request needs it. Repeat after `Retry-After` seconds.",
        retry_after=True,
    ),
    "store-unavailable": Kind(
        status=503,
        title="Store of files unavailable",
        meaning="The gateway cannot read or write the files of jobs. Repeat after `Retry-After` seconds.",
        retry_after=True,
    ),
    "identity-unavailable": Kind(
        status=503,
        title="Identity provider unavailable",
        meaning="The public keys that check tokens cannot be fetched. Keys rk_... work. Repeat after `Retry-After` s.",
        retry_after=True,
    ),
    "shutting-down": Kind(
        status=503,
        title="Shutting down",
        meaning="This process finishes its requests and accepts no more. Repeat the request; another process answers.",
        retry_after=True,
    ),
}
"""Problems by code, in order of the status."""


class Problem(Exception):  # noqa: N818  # the name of the thing in RFC 9457
    """A problem that is the answer to a request."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
        faults: Sequence[Mapping[str, Any]] = (),
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe a problem.

        Args:
            code: code of the catalogue.
            detail: what is wrong in this request.
            where: part of the request with the fault.
            expected: what the gateway expects there.
            got: what it found.
            fix: what to change.
            faults: all faults, if there may be several.
            retry_after: time after which a repetition may succeed, s.
            headers: further headers of the answer.
        """
        super().__init__(detail)
        self.code = code
        self.kind = CATALOGUE[code]
        self.fields = {
            "detail": detail[:_LONGEST],
            "expected": expected,
            "got": None if got is None else got[:_LONGEST],
            "where": where,
            "fix": fix,
            "faults": list(faults) or None,
        }
        self.headers = dict(headers or {})
        if self.kind.retry_after:
            self.headers["retry-after"] = str(max(1, round(retry_after or 1.0)))

    @classmethod
    def of(cls, code: str, error: ReentryError, *, where: str | None = None) -> Problem:
        """Describe an error of the other packages."""
        return cls(
            code, error.problem, where=where or error.where, expected=error.expected, got=error.got, fix=error.fix
        )

    @classmethod
    def of_model_server(cls, error: ClientError) -> Problem:
        """Log an error of the connection to Triton, and describe it without the addresses in its text."""
        _log.warning("the model server is unavailable", error=str(error))
        return cls("model-unavailable", "the model server does not answer as expected", where="the model server")

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.kind.status

    def content(self, *, request_id: str = "", instance: str = "") -> dict[str, Any]:
        """Return the members of the problem. On the paths of KServe it has a member `error`, as its clients expect."""
        members = {
            "type": TYPE_PREFIX + self.code,
            "title": self.kind.title,
            "status": self.status,
            "code": self.code,
            "instance": instance or None,
            "request_id": request_id or None,
            **self.fields,
            "error": self._line() if instance.startswith("/v2") else None,
        }
        return {name: value for name, value in members.items() if value is not None}

    def _line(self) -> str:
        parts = [str(self.fields["detail"])]
        parts += [f"{name}: {self.fields[name]}" for name in ("where", "expected", "got", "fix") if self.fields[name]]
        return "; ".join(parts)

    def body(self, *, request_id: str = "", instance: str = "") -> bytes:
        """Return the members as JSON."""
        return msgspec.json.encode(self.content(request_id=request_id, instance=instance))


_LONGEST: Final = 1_000
"""Characters of the longest text that repeats a part of a request."""


def answers(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the argument `responses` of a route that may answer with these problems."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        kind = CATALOGUE[code]
        example = {"type": TYPE_PREFIX + code, "title": kind.title, "status": kind.status, "code": code}
        entry = found.setdefault(
            kind.status, {"description": "", "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA, "examples": {}}}}
        )
        entry["description"] = "; ".join(filter(None, (entry["description"], f"`{code}`: {kind.title}")))
        entry["content"][MEDIA_TYPE]["examples"][code] = {"value": example}
    return found


PROBLEM_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        **{name: {"type": "string"} for name in ("type", "title", "code", "detail", "instance", "request_id")},
        "status": {"type": "integer"},
        **{name: {"type": "string"} for name in ("expected", "got", "where", "fix")},
        "faults": {"type": "array", "items": {"type": "object"}},
    },
}
"""JSON schema of a problem."""


def catalogue_page() -> str:
    """Return the page docs/problems.md."""
    rows = [f"| `{code}` | {kind.status} | {kind.title} | {kind.meaning} |" for code, kind in CATALOGUE.items()]
    return "\n".join(
        [
            "# Problems",
            "",
            "Every error of the gateway is a problem detail (RFC 9457) of type `application/problem+json`. `code`",
            "names an entry of this table, and `type` is the code as a URI. `detail` says what is wrong here;",
            "`expected`, `got`, `where` and `fix` are present where they help. `faults` lists all faults of a body.",
            "`request_id` is also in the header `X-Request-Id` and in the gateway's log.",
            "",
            "| code | status | title | when, and what to do |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )
