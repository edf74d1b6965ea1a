"""The run directory of a server: it is locked while the server runs and removed after a crash."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

import pytest

from reentry.serving.installation import find_installation
from reentry.serving.run_directory import RunDirectory, find_key

ADDRESS = "127.0.0.1:8000"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def abandoned() -> RunDirectory:
    """The folder of a killed server, which no process locks."""
    folder = RunDirectory()
    folder.write_key(ADDRESS, "old")
    os.close(folder.lock)
    return folder


def test_the_key_is_found_by_the_address_of_a_running_server() -> None:
    folder = RunDirectory()
    folder.write_key(ADDRESS, "key")
    assert (find_key(ADDRESS), find_key("127.0.0.1:8001")) == ("key", "")
    assert {path.stat().st_mode & 0o077 for path in (folder.path, *folder.path.iterdir())} == {0}
    folder.remove()
    assert find_key(ADDRESS) == ""


def test_the_key_of_a_server_that_was_killed_is_not_found() -> None:
    abandoned()
    assert find_key(ADDRESS) == ""


def test_the_next_start_removes_the_folder_of_a_killed_server_and_not_that_of_a_running_one() -> None:
    running, dead = RunDirectory(), abandoned()
    shared = [Path("/dev/shm", f"{folder.shared_memory_prefix}{secrets.token_hex(4)}") for folder in (running, dead)]
    for file in shared:
        file.touch()
    try:
        RunDirectory()
        assert [folder.path.exists() for folder in (running, dead)] == [True, False]
        assert [file.exists() for file in shared] == [True, False]
    finally:
        running.remove()
    assert not shared[0].exists()


def test_folders_that_others_can_write_are_neither_trusted_nor_removed(temporary: Path) -> None:
    dead = abandoned()
    dead.path.chmod(0o777)
    link = temporary / "reentry-serve-link"
    target = temporary / "target"
    target.mkdir(mode=0o700)
    link.symlink_to(target)
    RunDirectory()
    assert dead.path.exists()
    assert target.exists()
    assert find_key(ADDRESS) == ""


def test_the_backends_are_copies_and_include_the_stub_of_this_python() -> None:
    backends = RunDirectory().assemble_backends(find_installation())
    assert {path.name for path in backends.iterdir()} == {"python", "onnxruntime"}
    assert (backends / "python/triton_python_backend_stub").stat().st_mode & 0o111
    assert (backends / "onnxruntime/model.py").is_file()
    assert not any(path.is_symlink() for path in backends.rglob("*"))
