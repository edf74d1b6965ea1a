"""Messages to webhooks: one for each job that has ended, in the outbox until it is delivered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Row

from gateway.ids import new_id
from gateway.jobs.answers import JobAnswer


def announcement(row: Row[Any]) -> dict[str, Any]:
    """Return the row of the outbox that announces the end of a job."""
    content = {
        "type": f"job.{row.state}",
        "timestamp": datetime.fromtimestamp(row.finished_at, UTC).isoformat(timespec="milliseconds"),
        "data": JobAnswer.of(row).model_dump(mode="json"),
    }
    return {
        "id": new_id("msg"),
        "account_id": row.account_id,
        "job_id": row.id,
        "url": row.webhook_url,
        "body": msgspec.json.encode(content),
        "state": "waiting",
        "attempts": 0,
        "next_at": row.finished_at,
        "fence": 0,
        "created_at": row.finished_at,
    }
