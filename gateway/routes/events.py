"""Live events: feeds post them, and readers get them as a stream."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Header, Query, Request
from msgspec import Meta, Struct

from gateway.accounts.principal import Principal, Scope, require
from gateway.events.publish import NewEvent
from gateway.events.sse import MEDIA_TYPE, EventStream
from gateway.problems import Problem
from gateway.routes.dependencies import ServicesOf

LARGEST_POST: Final = 10_000
"""Largest number of updates, and of events, in one post."""

router = APIRouter(prefix="/events", tags=["events"])

Feed = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
TrackId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Time = Annotated[float, Meta(ge=-1e11, le=1e11)]
Latitude = Annotated[float, Meta(ge=-90.0, le=90.0)]
Longitude = Annotated[float, Meta(ge=-360.0, le=360.0)]
Altitude = Annotated[float, Meta(ge=-1e7, le=1e9)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Version = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]


class Update(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The latest position of a track."""

    track_id: TrackId
    timestamp: Time
    latitude: Latitude
    longitude: Longitude
    altitude: Altitude
    probability: Probability
    phase: Annotated[int, Meta(ge=0, le=1)]
    onset_timestamp: Time | None = None
    model_version: Version | None = None
    degraded: bool = False


class AlertEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event", tag="alert"):
    """An onset of reentry, the moment it was noticed."""

    track_id: TrackId
    onset_timestamp: Time
    detected_at: Time
    probability: Probability
    model_version: Version | None = None
    latency_ms: Annotated[float, Meta(ge=0.0, le=1e12)]
    degraded: bool = False


class RefinementEvent(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event", tag="refinement"
):
    """A better onset for an alert, by the measurements after it."""

    track_id: TrackId
    onset_timestamp: Time
    refined_onset_timestamp: Time
    refined_onset_deviation: Seconds | None = None
    hindsight_seconds: Seconds
    model_version: Version | None = None


class Post(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a feed has to tell."""

    feed: Feed
    updates: Annotated[list[Update], Meta(max_length=LARGEST_POST)] = []
    events: Annotated[list[AlertEvent | RefinementEvent], Meta(max_length=LARGEST_POST)] = []
