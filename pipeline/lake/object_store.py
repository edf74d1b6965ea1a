"""Access to an S3-compatible store beside Delta Lake's own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from reentry.errors import LakeError


def object_store() -> Any:
    """Return a connection to the store that the environment configures, without caches of listings."""
    from s3fs import S3FileSystem

    return S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


def storage_options(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the options of Delta Lake's store that the environment does not give by itself.

    A conditional write makes two commits of one version impossible, so a store must support it.
    """
    options = {"conditional_put": "etag"}
    if environment.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["allow_http"] = "true"
    return options


def require_conditional_writes(location: str) -> None:
    """Check with two writes of one object that an S3-compatible store refuses the second one.

    Raises:
        LakeError: The store ignores the condition, or is unavailable.
    """
    from botocore.exceptions import BotoCoreError

    files = object_store()
    place = f"{location.removeprefix('s3://')}/_conditional-write-{uuid.uuid4().hex}"
    try:
        files.pipe_file(place, b"1", mode="create")
        try:
            files.pipe_file(place, b"2", mode="create")
            refused = False
        except OSError:
            refused = True
        files.rm_file(place)
    except (BotoCoreError, OSError) as error:
        raise LakeError(
            "cannot write to the object store",
            where=location,
            got=str(error) or type(error).__name__,
            fix="check that it runs, the bucket, AWS_ENDPOINT_URL and the credentials",
        ) from error
    if not refused:
        raise LakeError(
            "the store has no conditional writes, so that concurrent commits would overwrite each other",
            where=location,
            expected="a PUT with If-None-Match: * of an existing object to be refused",
            fix="use a store that has them; reentry doctor --store checks one",
        )
