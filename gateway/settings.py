"""Settings of the gateway: a TOML file, and environment variables that override it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Final

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.runtime.config_file import read_toml

PREFIX: Final = "REENTRY_GATEWAY_"
"""Prefix of the environment variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Limits of the accounts of one tier."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    requests_per_second: float = 100.0
    """Requests per second, on average."""
    burst: int = 200
    """Number of requests that may arrive at once."""
    steps_per_minute: int = 60_000_000
    """Rows that may be sent in a minute, those with faults included; they may also arrive at once."""
    active_jobs: int = 100
    """Number of jobs that may wait or be worked on at once."""
    degraded: bool = False
    """Whether tracks are scored by the altitude-fraction rule while Triton is away."""

    def __post_init__(self) -> None:
        require_between("requests per second", self.requests_per_second, 0.001, 1e6)
        require_between("burst", self.burst, 1, 1_000_000)
        require_between("steps per minute", self.steps_per_minute, 1, 10**12)
        require_between("active jobs", self.active_jobs, 1, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Settings of one gateway process."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    triton_url: str = "http://127.0.0.1:8000"
    """Address of Triton, http://HOST:PORT or grpc://HOST:PORT. HTTP takes half the processor time for a single track;
    over gRPC, Triton stops to score for a client that is gone."""
    second_triton_url: str = ""
    """Address of a second Triton, whose versions experiments may compare with those of the first; empty for none."""
    model_repository: Path = Path("model_repository")
    """Folder of the model repository. The drift of features is measured against the references in it; without them,
    against the first tracks of an account."""
    address: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8080
    """Port of the routes and of the live page; 0 takes a free port."""
    metrics_port: int = 8081
    """Port of the Prometheus metrics; 0 takes a free port."""
    data: Path = Path("artifacts/gateway")
    """Folder of the SQLite database, the files of jobs, and the spool of the inference log."""
    database_url: str = field(default="", repr=False)
    """postgresql://USER:PASSWORD@HOST:PORT/DATABASE; empty for SQLite in `data`."""
    redis_url: str = field(default="", repr=False)
    """redis://HOST:PORT/NUMBER; empty for limits, cache and events inside this process."""
    store: str = ""
    """Folder, or s3://BUCKET/PREFIX, of the uploads and results of jobs; empty for a folder in `data`."""
    sources: tuple[str, ...] = ()
    """Prefixes s3://BUCKET/PREFIX/ of the objects that jobs may refer to; {account} is the id of the job's account."""
    webhooks_to: tuple[str, ...] = ()
    """Networks and host names inside your own network that webhooks may reach, also without TLS."""
    lease_seconds: float = 30.0
    """Time after which the job of a dead worker is taken by another one, s."""
    job_seconds: float = 86_400.0
    """Time after which a job that is not complete expires, unless its request gives another, s."""
    job_retention_seconds: float = 7 * 86_400.0
    """Time from the deadline of a job to the deletion of its files, s."""
    workers_inside: int | None = None
    """Number of workers of jobs inside the process. Default: 1 with SQLite, and 0 with PostgreSQL."""
    oidc_issuer: str = ""
    """Issuer of the JSON web tokens of people; empty if only keys are accepted."""
    oidc_audience: str = ""
    """Audience that those tokens must name."""
    oidc_keys_url: str = ""
    """Address of the issuer's public keys (JWKS)."""
    otlp_endpoint: str = ""
    """Address of an OpenTelemetry collector, such as http://HOST:4318; empty for no traces."""
    tls_certificate: Path | None = None
    """Certificate in PEM format; with it the gateway speaks HTTPS."""
    tls_key: Path | None = None
    """Private key of the certificate."""
    drain_seconds: float = 20.0
    """Longest time for the requests in flight to finish at shutdown, s."""
    largest_body: int = 64 * 2**20
    """Bytes of the largest request body, except the upload of a job. Four such bodies may be in memory at once."""
    largest_upload: int = 4 * 2**30
    """Bytes of the largest upload of a job."""
    calls_in_flight: int = 4
    """Number of calls to Triton in flight at once. With fewer, more tracks share a call. While two are in flight, up to
    16 tracks are gathered for at most 20 ms before another is sent."""
    queue: int = 256
    """Number of tracks that may wait for a call; further requests get 503 at once."""
    timeout: float = 10.0
    """Longest wait for an answer of Triton, s."""
    cache_bytes: int = 256 * 2**20
    """Bytes of the answers that are cached in memory."""
    cache_seconds: float = 300.0
    """Time for which an answer is cached, s."""
    spool_bytes: int = 1024 * 2**20
    """Bytes of the inference log that may wait on disk for the database."""
    log_days: int = 90
    """Days for which the inference log and the live events are kept."""
    tiers: Mapping[str, Tier] = field(default_factory=lambda: DEFAULT_TIERS)
    """Limits by the name of the tier."""

    def __post_init__(self) -> None:
        require_between("port", self.port, 0, 65_535)
        require_between("metrics port", self.metrics_port, 0, 65_535)
        require_between("drain", self.drain_seconds, 0, 3_600, unit="s")
        require_between("largest body", self.largest_body, 1_024, 2**31)
        require_between("largest upload", self.largest_upload, 1_024, 2**50)
        require_between("lease", self.lease_seconds, 0.3, 3_600, unit="s")
        require_between("job", self.job_seconds, 1, 30 * 86_400, unit="s")
        require_between("job retention", self.job_retention_seconds, 0, 3_650 * 86_400, unit="s")
        for prefix in self.sources:
            if not re.fullmatch(r"s3://[^/?#]+/([^?#]+/)?", prefix):
                raise ConfigError(
                    "invalid prefix in sources", expected="s3://BUCKET/ or s3://BUCKET/PREFIX/", got=prefix
                )
        require_between("calls in flight", self.calls_in_flight, 1, 1_000)
        require_between("queue", self.queue, 1, 1_000_000)
        require_between("timeout", self.timeout, 0.001, 86_400, unit="s")
        require_between("days of the inference log", self.log_days, 1, 36_500)
        for name, url, schemes in (
            ("database_url", self.database_url, ("postgresql://",)),
            ("redis_url", self.redis_url, ("redis://", "rediss://", "unix://")),
            ("triton_url", self.triton_url, ("http://", "grpc://")),
            ("second_triton_url", self.second_triton_url, ("http://", "grpc://")),
            ("otlp_endpoint", self.otlp_endpoint, ("http://", "https://")),
            ("oidc_keys_url", self.oidc_keys_url, ("http://", "https://")),
        ):
            if (url or name == "triton_url") and not url.startswith(schemes):
                # The value may contain a password, so the error does not repeat it.
                raise ConfigError(f"invalid {name}", expected=" or ".join(f"{scheme}..." for scheme in schemes))
        if bool(self.oidc_issuer) != bool(self.oidc_keys_url) or bool(self.oidc_issuer) != bool(self.oidc_audience):
            raise ConfigError(
                "incomplete settings of OpenID Connect", expected="all of oidc_issuer, oidc_audience and oidc_keys_url"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("incomplete settings of TLS", expected="both tls_certificate and tls_key")
        if "standard" not in self.tiers:
            raise ConfigError(
                "no tier 'standard'",
                expected="a table [tiers.standard], the tier of new accounts",
                got=str([*self.tiers]),
            )

    @property
    def embedded(self) -> bool:
        """Whether the database is SQLite."""
        return not self.database_url

    @property
    def store_place(self) -> str:
        """Folder or s3:// address of the uploads and results of jobs."""
        return self.store or str(self.data / "jobs")

    @property
    def worker_count(self) -> int:
        """Number of workers of jobs inside the process."""
        return (1 if self.embedded else 0) if self.workers_inside is None else self.workers_inside


DEFAULT_TIERS: Final[Mapping[str, Tier]] = {
    "standard": Tier(),
    "premium": Tier(requests_per_second=1_000.0, burst=2_000, steps_per_minute=600_000_000, degraded=True),
}
"""Tiers without a table `tiers` in the settings file."""


def read_gateway_settings(
    path: Path | None, environment: Mapping[str, str] | None = None, **given: Any
) -> GatewaySettings:
    """Read settings. A value that is `given` wins over the environment, which wins over the file.

    A variable such as REENTRY_GATEWAY_DATABASE_URL_FILE names a file that contains the value, such as a mounted secret.

    Args:
        path: TOML file with the settings, and a table [tiers.NAME] for each tier; None for no file.
        environment: environment variables; those of the process by default.
        given: values by the name of the setting, None where a setting is not given.

    Raises:
        ConfigError: the file is invalid, or a value is; the error names all of them.
    """
    from pydantic import TypeAdapter, ValidationError

    values = read_toml(path) if path else {}
    environment = os.environ if environment is None else environment
    for each in fields(GatewaySettings):
        text = _variable(environment, PREFIX + each.name.upper()) if each.name != "tiers" else None
        if text is not None:
            is_list = str(each.type).startswith("tuple")
            values[each.name] = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
    values |= {name: value for name, value in given.items() if value is not None}
    try:
        return TypeAdapter(GatewaySettings).validate_python(values)
    except ValidationError as error:
        # The errors leave out the values, because some contain passwords.
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)]
        raise ConfigError(
            "invalid settings of the gateway",
            where=str(path) if path else "the environment",
            got="; ".join(faults),
            fix="see docs/gateway.md for the names and types of the settings",
        ) from error


def _variable(environment: Mapping[str, str], name: str) -> str | None:
    """Return the value of a variable, or the content of the file that NAME_FILE names.

    Raises:
        ConfigError: the file cannot be read, or both are set.
    """
    value, file = environment.get(name), environment.get(f"{name}_FILE")
    if file is None:
        return value
    if value is not None:
        raise ConfigError("two values of one setting", expected="one of the two", got=f"{name} and {name}_FILE")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}_FILE cannot be read", where=file, got=type(error).__name__) from error
