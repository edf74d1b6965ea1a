"""A table of a lake whose rows are read without Python code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import pyarrow.dataset as ds
from deltalake import DeltaTable
from pyarrow.fs import FileSystem, LocalFileSystem, S3FileSystem, SubTreeFileSystem


class LakeTable(DeltaTable):
    """A Delta table whose data files are read by a file system of Arrow.

    The file system of Delta Lake is Python code, which Arrow's threads call. A process that ends while such a thread
    still holds a file aborts, crashes or hangs; this happens also after all rows were read.
    """

    def to_pyarrow_dataset(  # type: ignore[override]  # by keyword only
        self, *, filesystem: FileSystem | None = None, **options: Any
    ) -> ds.Dataset:
        """See `DeltaTable.to_pyarrow_dataset`."""
        scheme, _, root = self.table_uri.partition("://")
        own = SubTreeFileSystem(unquote(root), _s3() if scheme == "s3" else LocalFileSystem())
        return super().to_pyarrow_dataset(filesystem=filesystem or own, **options)


def _s3(environment: Mapping[str, str] = os.environ) -> FileSystem:
    """Return the file system of the store that the environment configures, with all that Arrow does not read there."""
    settings = {
        "endpoint_override": environment.get("AWS_ENDPOINT_URL"),
        "region": environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"),
        "tls_ca_file_path": environment.get("AWS_CA_BUNDLE"),
    }
    return S3FileSystem(**{name: value for name, value in settings.items() if value})
