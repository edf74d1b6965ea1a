"""Choice of the store of jobs by the settings."""

from __future__ import annotations

from pathlib import Path

from gateway.jobs.files.store import JobFiles
from gateway.settings import GatewaySettings


def open_files(settings: GatewaySettings) -> JobFiles:
    """Return the store that the settings name."""
    if settings.store_place.startswith("s3://"):
        from gateway.jobs.files.s3 import S3Files

        return S3Files(settings.store_place)
    from gateway.jobs.files.folder import FolderFiles

    return FolderFiles(Path(settings.store_place))
