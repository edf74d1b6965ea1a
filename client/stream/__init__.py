"""Streams live tracks through a Triton server, one gRPC stream for each feed, with an alert for each onset.

A network with the orbit filter also refines the onsets of alerts.

Example:
    from client.stream import Feed

    async with Feed("radar-3", ["grpc://127.0.0.1:8001"], on_alert=print) as feed:
        answers = await feed.send(track_ids, measurements)
"""

from client.stream.alert import Alert, Answers, Refinement
from client.stream.feed import Feed, FeedConfig

__all__ = ["Alert", "Answers", "Feed", "FeedConfig", "Refinement"]
