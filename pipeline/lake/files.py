"""Data files of a table: which are gone, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence

from pyarrow.fs import FileInfo, FileType

from pipeline.lake.lake import Lake


def missing_files(lake: Lake, name: str, version: int) -> list[str]:
    """Return the paths of a version's files that no longer exist, because they were removed after a later version.

    Raises:
        LakeError: The version does not exist, or the store is unavailable.
    """
    table = lake.open(name, version)
    with lake.errors(name, version):
        paths = table.to_pyarrow_dataset().files
    return missing_of(lake, name, paths)


def missing_of(lake: Lake, name: str, paths: Sequence[str]) -> list[str]:
    """Return those of some paths below a table at which there is no file.

    Raises:
        LakeError: The store is unavailable.
    """
    return [info.path for info in file_infos(lake, name, paths) if info.type is FileType.NotFound]


def file_infos(lake: Lake, name: str, paths: Sequence[str]) -> list[FileInfo]:
    """Return type and size of files, by their paths below the table.

    Raises:
        LakeError: The store is unavailable.
    """
    with lake.errors(name):
        found: list[FileInfo] = lake.files(name).get_file_info(list(paths))
    return found
