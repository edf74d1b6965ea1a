"""All tables of the gateway.

Times are Unix times in seconds (`*_at`). Ids are text that sorts by the time of creation, see `gateway.ids`.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_JSON: Final = JSON().with_variant(JSONB(), "postgresql")
_NUMBER: Final = BigInteger().with_variant(Integer(), "sqlite")
"""Whole number that SQLite can count up as a primary key."""


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text(), float: Double(), int: BigInteger(), dict[str, Any]: _JSON, list[str]: _JSON}  # noqa: RUF012  # SQLAlchemy's interface


class Account(Table):
    """An account, to which keys, jobs and log rows belong."""

    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    tier: Mapped[str]
    created_at: Mapped[float]


class Key(Table):
    """A key. Its secret is stored as a hash only."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Id that is part of the key itself."""
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str]
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    """SHA-256 of the whole key."""
    scopes: Mapped[list[str]]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class IdempotencyKey(Table):
    """A request with the header Idempotency-Key, and its answer."""

    __tablename__ = "idempotency_keys"

    account_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    """Hash of path, query and body of the request."""
    owner: Mapped[str]
    """Id of the request that is being answered."""
    status: Mapped[int | None]
    """Status of the answer; None while the request is in flight."""
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    locked_until: Mapped[float]
    """Time after which a request without an answer counts as lost."""
    expires_at: Mapped[float] = mapped_column(index=True)


class Job(Table):
    """Scoring of one file in the background."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "state", "lease_until"),
        Index(None, "account_id", "id"),
        Index(None, "account_id", "started_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    key_id: Mapped[str]
    """Key that created the job."""
    state: Mapped[str]
    source: Mapped[str]
    """Name of the uploaded file in the store, or the s3:// address that the job refers to."""
    bytes: Mapped[int]
    rows: Mapped[int | None]
    steps_charged: Mapped[int] = mapped_column(default=0)
    """Rows that are counted in the account's limit of steps. A worker scores the file when all of them are."""
    tracks: Mapped[int | None]
    tracks_done: Mapped[int] = mapped_column(default=0)
    tracks_refused: Mapped[int] = mapped_column(default=0)
    model_version: Mapped[int | None]
    error: Mapped[dict[str, Any] | None]
    """Problem of a failed job."""
    revision: Mapped[int] = mapped_column(default=0)
    """Number of changes; the id of the job's events."""
    attempts: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_until: Mapped[float | None]
    fence: Mapped[int] = mapped_column(default=0)
    """Number that increases with each lease; a worker with an older one may not change the job."""
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    deadline_at: Mapped[float]
    """Time after which a job that is not finished expires."""
    expires_at: Mapped[float]
    """Time after which files and row are deleted."""
    request_id: Mapped[str]
    webhook_url: Mapped[str | None]


class WebhookDelivery(Table):
    """A message to a webhook, until it is delivered or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index(None, "state", "next_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str]
    job_id: Mapped[str] = mapped_column(index=True)
    url: Mapped[str]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    state: Mapped[str]
    """waiting, delivered or failed."""
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[float]
    lease_until: Mapped[float | None]
    fence: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[str | None]
    created_at: Mapped[float]


class WebhookSecret(Table):
    """Secret with which the messages to the webhooks of an account are signed."""

    __tablename__ = "webhook_secrets"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    secret: Mapped[str]
    created_at: Mapped[float]


class LoggedTrack(Table):
    """One row for each scored track: the inference log."""

    __tablename__ = "inference_log"
    __table_args__ = (Index(None, "account_id", "id"), Index(None, "account_id", "track_id"), Index(None, "at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    """Id of the answer, which a client gives with the true onset."""
    account_id: Mapped[str]
    key_id: Mapped[str]
    request_id: Mapped[str]
    at: Mapped[float]
    track_id: Mapped[int]
    steps: Mapped[int]
    first_timestamp: Mapped[float]
    last_timestamp: Mapped[float]
    peak_altitude: Mapped[float]
    onset_timestamp: Mapped[float | None]
    refined_onset_timestamp: Mapped[float | None]
    largest_probability: Mapped[float]
    model: Mapped[str]
    """Name of the model that answered; the altitude-fraction rule is `altitude_fraction`."""
    model_version: Mapped[int | None]
    experiment_id: Mapped[str | None] = mapped_column(index=True)
    variant: Mapped[str | None]
    shadow: Mapped[bool] = mapped_column(Boolean, default=False)
    """Whether the answer was only logged and not sent."""
    control_id: Mapped[str | None]
    """Id of the row of the answer that was sent, for a row that was only logged."""
    cached: Mapped[bool] = mapped_column(Boolean, default=False)
    degraded: Mapped[bool] = mapped_column(Boolean, default=False)
    seconds: Mapped[float]
    quantities: Mapped[dict[str, Any]]
    """Few numbers of the track, which drift compares."""


class Usage(Table):
    """Sums of an account in one hour."""

    __tablename__ = "usage"

    account_id: Mapped[str] = mapped_column(primary_key=True)
    hour: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Hours since the Unix epoch."""
    requests: Mapped[int] = mapped_column(default=0)
    tracks: Mapped[int] = mapped_column(default=0)
    steps: Mapped[int] = mapped_column(default=0)
    cached: Mapped[int] = mapped_column(default=0)
    degraded: Mapped[int] = mapped_column(default=0)
    refused: Mapped[int] = mapped_column(default=0)


class SpoolPart(Table):
    """How far a spool of the inference log is in the tables, so that each of its parts is stored only once."""

    __tablename__ = "spool_parts"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Name of the spool, one for each start of a process."""
    number: Mapped[int]
    """Number of its newest part that is in the tables. Parts are stored in the order of their numbers."""
    stored_at: Mapped[float]


class Outcome(Table):
    """The true onset of a track, sent after its flight."""

    __tablename__ = "outcomes"
    __table_args__ = (UniqueConstraint("account_id", "track_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str]
    track_id: Mapped[int]
    onset_timestamp: Mapped[float | None]
    """Unix time of the true onset, s; None if the flight had no reentry."""
    received_at: Mapped[float]


class Experiment(Table):
    """A comparison of two served versions."""

    __tablename__ = "experiments"
    __table_args__ = (UniqueConstraint("account_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str]
    name: Mapped[str]
    mode: Mapped[str]
    """ab or shadow."""
    control: Mapped[dict[str, Any]]
    challenger: Mapped[dict[str, Any]]
    share: Mapped[float]
    """Share of the tracks that the challenger scores."""
    salt: Mapped[str]
    state: Mapped[str]
    """running or ended."""
    created_at: Mapped[float]
    ended_at: Mapped[float | None]


class DriftBaseline(Table):
    """The first tracks of an account, which drift compares later days with. They outlive their rows of the log."""

    __tablename__ = "drift_baselines"

    account_id: Mapped[str] = mapped_column(primary_key=True)
    """Account; empty for all accounts together."""
    answers: Mapped[int]
    """Number of rows of the inference log that were read."""
    last_id: Mapped[str]
    """Id of the last of these rows."""
    rows: Mapped[bytes] = mapped_column(LargeBinary)
    """Latest row of each track, as MessagePack."""


class Event(Table):
    """An alert or a refinement, for readers who reconnect."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("account_id", "identity"),
        Index(None, "account_id", "number"),
        {"sqlite_autoincrement": True},  # SQLite would use the numbers of deleted events again
    )

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    """Id of the event for Last-Event-ID, in the order of the commits."""
    account_id: Mapped[str]
    kind: Mapped[str] = mapped_column(String(32))
    identity: Mapped[str]
    """What makes the event unique, such as its feed, track and onset."""
    content: Mapped[dict[str, Any]]
    at: Mapped[float]
