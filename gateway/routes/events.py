"""Live events: feeds post them, and readers get them as a stream."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Header, Query, Request
from msgspec import Meta, Struct

from gateway.accounts.principal import Principal, Scope, require
from gateway.events.publish import NewEvent
from gateway.events.sse import MEDIA_TYPE, EventStream
from gateway.middleware.bodies import LARGEST
from gateway.problems import answers
from gateway.routes.support.dependencies import ServicesOf
from gateway.routes.support.json_bodies import body_of, read_json
from gateway.routes.support.presence import still_valid

LARGEST_POST: Final = 10_000
"""Largest number of updates, and of events, in one post."""

router = APIRouter(tags=["events"])

Feed = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$", description="Name of the feed.")
]
TrackId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Time = Annotated[float, Meta(ge=-1e11, le=1e11, description="Unix time, s.")]
Latitude = Annotated[float, Meta(ge=-90.0, le=90.0, description="Geodetic latitude, degrees.")]
Longitude = Annotated[float, Meta(ge=-360.0, le=360.0, description="Longitude, degrees.")]
Altitude = Annotated[float, Meta(ge=-1e7, le=1e9, description="Height above the ellipsoid, m.")]
Probability = Annotated[float, Meta(ge=0.0, le=1.0, description="Probability of reentry.")]
Phase = Annotated[int, Meta(ge=0, le=1, description="1 in reentry, 0 before.")]
Version = Annotated[int, Meta(ge=0, le=2**53, description="Version of the network that answered.")]
Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]


class Update(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The latest position of a track."""

    track_id: TrackId
    timestamp: Time
    latitude: Latitude
    longitude: Longitude
    altitude: Altitude
    probability: Probability
    phase: Phase
    onset_timestamp: Time | None = None
    model_version: Version | None = None
    degraded: bool = False


class Alert(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event", tag="alert"):
    """An onset of reentry, at the moment of its detection."""

    feed: Feed | None = None
    track_id: TrackId
    onset_timestamp: Time
    detected_at: Time
    probability: Probability
    model_version: Version | None = None
    latency_ms: Annotated[float, Meta(ge=0.0, le=1e12, description="Time from measurement to alert, ms.")] | None = None
    degraded: bool = False

    def identity(self, feed: str) -> tuple[Any, ...]:
        """Return what makes the event unique in its account."""
        return ("alert", feed, self.track_id, self.onset_timestamp)


class Refinement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event", tag="refinement"):
    """A better estimate of the onset of an alert, by the measurements after it."""

    feed: Feed | None = None
    track_id: TrackId
    onset_timestamp: Time
    refined_onset_timestamp: Time
    refined_onset_deviation: Seconds | None = None
    hindsight_seconds: Seconds
    model_version: Version | None = None

    def identity(self, feed: str) -> tuple[Any, ...]:
        """Return what makes the event unique in its account."""
        return ("refinement", feed, self.track_id, self.onset_timestamp, self.hindsight_seconds)


class Post(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """News of a feed."""

    feed: Feed
    updates: Annotated[list[Update], Meta(max_length=LARGEST_POST)] = []
    events: Annotated[list[Alert | Refinement], Meta(max_length=LARGEST_POST)] = []


class Accepted(Struct, frozen=True, kw_only=True):
    """Number of updates and events that were accepted, and of events that were known already."""

    accepted: int
    repeated: int


_UPDATE: Final = {
    "track_id": 7,
    "timestamp": 1796083126.5,
    "latitude": 39.1,
    "longitude": 127.4,
    "altitude": 81250.0,
    "probability": 0.97,
    "phase": 1,
    "onset_timestamp": 1796083124.0,
    "model_version": 3,
    "degraded": False,
}
_ALERT: Final = {
    "track_id": 7,
    "onset_timestamp": 1796083124.0,
    "detected_at": 1796083126.5,
    "probability": 0.97,
    "model_version": 3,
    "latency_ms": 4.2,
    "degraded": False,
}
_POST: Final = {"feed": "west", "updates": [_UPDATE], "events": [{"event": "alert", **_ALERT}]}
_STREAM: Final = (
    "retry: 1000\n\nid: 41\n\n"
    'id: 42\nevent: alert\ndata: {"feed":"west","track_id":7,"onset_timestamp":1796083124.0,'
    '"detected_at":1796083126.5,"probability":0.97,"model_version":3,"latency_ms":4.2,"degraded":false}\n\n'
)

_decode: Final = msgspec.json.Decoder(Post).decode


@router.post(
    "/events",
    status_code=202,
    response_model=None,  # `responses` describes it
    summary="Post live events",
    responses={
        202: {"description": "The events are stored.", **body_of(Accepted, {"accepted": 2, "repeated": 0})},
        **answers("invalid-request", "unauthorized", "forbidden", "body-too-large", "invalid-value", "rate-limited"),
        **answers("database-unavailable"),
    },
    openapi_extra={"requestBody": {"required": True, **body_of(Post, _POST)}},
)
async def post_events(
    request: Request, services: ServicesOf, principal: Annotated[Principal, require(Scope.STREAM)]
) -> dict[str, int]:
    """Send positions to the present readers of the account, and store alerts and refinements.

    Positions are gone when they are sent. An alert is known by its feed, track and onset, and a refinement by its
    hindsight as well, so that a post may be repeated.
    """
    post = await read_json(request, _decode, LARGEST)
    kept = [_to_keep(post.feed, event) for event in post.events]
    new = await services.events.keep(principal.account_id, kept)
    if post.updates:
        services.events.send(principal.account_id, "update", {"feed": post.feed, "tracks": post.updates})
    return {"accepted": new + len(post.updates), "repeated": len(kept) - new}


def _to_keep(feed: str, event: Alert | Refinement) -> NewEvent:
    feed = event.feed or feed
    content = {name: getattr(event, name) for name in event.__struct_fields__} | {"feed": feed}
    kind, *_ = identity = event.identity(feed)
    return NewEvent(kind=kind, identity=msgspec.json.encode(identity).decode(), content=content)


@router.get(
    "/events",
    summary="Read live events",
    status_code=200,
    response_class=EventStream,
    responses={
        200: {"description": "Server-sent events without end.", "content": {MEDIA_TYPE: {"example": _STREAM}}},
        **answers("unauthorized", "forbidden", "invalid-value", "rate-limited", "database-unavailable"),
    },
)
async def read_events(
    request: Request,
    services: ServicesOf,
    principal: Annotated[Principal, require(Scope.READ)],
    last_event_id: Annotated[
        int | None, Header(ge=0, le=2**63 - 1, description="Id of the newest event that the reader has.")
    ] = None,
    after: Annotated[
        int | None, Query(ge=0, le=2**63 - 1, description="The same, for a reader without the header; 0 for all.")
    ] = None,
) -> EventStream:
    """Send the live events of the account as server-sent events.

    The kinds are `alert` and `refinement`, which have an id and are kept for readers who come back with it, and
    `update`, `track` and `lost`, which only present readers get. `lost` counts the events that a slow reader missed.
    """
    begin = await services.events.begin(after if last_event_id is None else last_event_id)
    check = partial(still_valid, services, request.scope, Scope.READ)
    events = services.events.read(principal.account_id, begin, check)
    return EventStream(events, services.stopping, admission=services.readers.admit(principal.key_id))
