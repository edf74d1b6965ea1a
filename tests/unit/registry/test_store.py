"""Stores in a folder and on S3: versions are complete or absent, and concurrent commands lose no change."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from reentry.errors import ReentryError, RepositoryError
from registry.config_pbtxt import read
from registry.inventory import Version, faults_of, find
from registry.labels import Labels, Record
from registry.open import open_store
from registry.promotion import label_exported, promote, prune, rollback
from registry.store import CLAIM_FILE, CONFIG_FILE, LABELS_FILE, VersionStore, manifest_of, next_version
from tests.full_disk import room_for
from tests.versions import make_version

# s3fs allows a forgotten session 0.1 s to close its connections, which is too little on a loaded machine.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")


def test_fetching_a_version_copies_every_file(store: VersionStore, tmp_path: Path) -> None:
    made = make_version(tmp_path / "made", 1, metric=0.5)
    store.install(made, 1)
    store.fetch(1, tmp_path / "fetched" / "1")
    fetched = {path.name: path.read_bytes() for path in (tmp_path / "fetched/1").iterdir()}
    assert fetched == {path.name: path.read_bytes() for path in made.iterdir()}


def test_an_installed_version_has_its_files_and_its_manifest(store: VersionStore, tmp_path: Path) -> None:
    assert (store.versions(), next_version(store)) == ([], 1)
    place = store.install(make_version(tmp_path / "made", 1, metric=0.5), 1)
    assert place == store.place(1)
    assert (store.versions(), next_version(store)) == ([1], 2)
    assert set(store.files(1)) == {"model.onnx", "step.onnx", "manifest.json"}
    manifest = manifest_of(store, 1)
    assert manifest.metrics["onset_rmse"] == 0.5
    assert faults_of(store, find(store, 1)) == []


def test_a_number_in_use_is_refused_and_its_version_stays(store: VersionStore, tmp_path: Path) -> None:
    store.install(make_version(tmp_path / "one", 1, files={"model.onnx": b"first"}), 1)
    with pytest.raises(FileExistsError):
        store.install(make_version(tmp_path / "other", 1, files={"model.onnx": b"second"}), 1)
    assert store.read("1/model.onnx").text == "first"


def test_one_of_several_concurrent_exports_gets_the_number(store: VersionStore, tmp_path: Path) -> None:
    contents = [f"exporter {index}".encode() for index in range(6)]
    folders = [make_version(tmp_path / f"{i}", 1, files={"model.onnx": each}) for i, each in enumerate(contents)]
    start = threading.Barrier(len(folders))

    def install(folder: Path) -> bool:
        own = open_store(store.location)
        start.wait()
        try:
            own.install(folder, 1)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(len(folders)) as pool:
        won = list(pool.map(install, folders))
    assert sum(won) == 1
    assert store.read("1/model.onnx").text == contents[won.index(True)].decode()
    assert faults_of(store, find(store, 1)) == []


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_an_export_that_another_one_overtook_before_its_claim_is_refused(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, late = (make_version(tmp_path / name, 1, files={"model.onnx": name.encode()}) for name in ("first", "late"))
    put = store._put

    def overtaken(*arguments: Any, **condition: str) -> bool:
        open_store(store.location).install(first, 1)
        return put(*arguments, **condition)

    monkeypatch.setattr(store, "_put", overtaken)
    with pytest.raises(FileExistsError):
        store.install(late, 1)
    assert store.read("1/model.onnx").text == "first"
    assert set(store.files(1)) == {"model.onnx", "manifest.json"}


def test_a_file_is_replaced_only_while_it_is_unchanged(store: VersionStore) -> None:
    nothing = store.read(LABELS_FILE)
    assert nothing.text is None
    store.write(LABELS_FILE, "first", over=nothing)
    first = store.read(LABELS_FILE)
    with pytest.raises(RepositoryError, match="another command changed the file"):
        store.write(LABELS_FILE, "second", over=nothing)
    store.write(LABELS_FILE, "third", over=first)
    with pytest.raises(RepositoryError, match="another command changed the file"):
        store.write(LABELS_FILE, "fourth", over=first)
    assert store.read(LABELS_FILE).text == "third"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("model.onnx", "wholE", "model.onnx does not match its SHA-256"),
        ("step.onnx", "step and more", "step.onnx has 13 bytes, expected 4"),
    ],
)
def test_a_changed_file_is_reported(store: VersionStore, tmp_path: Path, name: str, content: str, fault: str) -> None:
    store.install(make_version(tmp_path / "made", 1), 1)
    store.write(f"1/{name}", content, over=store.read(f"1/{name}"))
    assert faults_of(store, find(store, 1)) == [fault]


def test_a_version_with_the_manifest_of_another_number_is_reported(store: VersionStore, tmp_path: Path) -> None:
    store.install(make_version(tmp_path / "made", 1), 1)
    moved = Version(number=2, manifest=manifest_of(store, 1), files=store.files(1))
    assert faults_of(store, moved) == ["the manifest belongs to version 1"]


def test_a_folder_that_does_not_match_its_manifest_is_not_installed(store: VersionStore, tmp_path: Path) -> None:
    changed = make_version(tmp_path / "changed", 1)
    (changed / "model.onnx").write_bytes(b"other")
    bare = make_version(tmp_path / "bare", 1)
    (bare / "manifest.json").unlink()
    for folder, reason in ((changed, "does not match the version number or the files"), (bare, "has no manifest")):
        with pytest.raises(RepositoryError, match=reason):
            store.install(folder, 1)
    with pytest.raises(RepositoryError, match="does not match the version number"):
        store.install(make_version(tmp_path / "two", 2), 1)
    assert store.versions() == []


def test_promotion_rollback_and_pruning_work_in_both_kinds_of_store(store: VersionStore, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        store.install(make_version(tmp_path / f"{number}", number), number)
        label_exported(store, [number], promote_it=True)
    assert rollback(store).change.version == 2
    assert read(store.read(CONFIG_FILE).text or "").version_policy.specific.versions == [2]
    labels = Record.of(store).labels
    assert (labels.production, [change.version for change in labels.history]) == (2, [1, 2, 3, 2])
    assert prune(store, keep=0) == ([3], [])
    assert store.versions() == [1, 2]
    stale = Record.of(store)
    promote(store, 1)
    with pytest.raises(RepositoryError, match="another command changed the file"):
        stale.replace(store, Labels())


def test_a_removed_version_no_longer_exists(store: VersionStore, tmp_path: Path) -> None:
    for number in (1, 2):
        store.install(make_version(tmp_path / f"{number}", number), number)
    store.remove(1)
    assert store.versions() == [2]
    with pytest.raises(RepositoryError, match="there is no such version") as failure:
        manifest_of(store, 1)
    assert failure.value.expected == "2"


def test_a_location_without_a_repository_is_an_error_with_a_fix(tmp_path: Path, bucket: str) -> None:
    for location in (str(tmp_path), f"s3://{bucket}/nothing"):
        with pytest.raises(RepositoryError) as failure:
            open_store(location)
        assert (failure.value.where, failure.value.problem) == (location, "not a model repository of this program")
        assert failure.value.expected == "reentry_lstm/config.pbtxt in it"
        assert "--repository" in str(failure.value.fix)


def test_an_unknown_kind_of_location_is_refused() -> None:
    with pytest.raises(RepositoryError, match="unknown kind of repository") as failure:
        open_store("ftp://host/models")
    assert failure.value.where == "ftp://host/models"


def test_a_location_without_a_bucket_is_refused() -> None:
    with pytest.raises(RepositoryError, match="no bucket name") as failure:
        open_store("s3:///models")
    assert (failure.value.where, failure.value.expected) == ("s3:///models", "s3://BUCKET/PREFIX")


def test_a_missing_bucket_is_an_error_with_a_fix(bucket: str) -> None:
    with pytest.raises(RepositoryError, match="there is no such bucket") as failure:
        open_store("s3://no-such-bucket/models")
    assert failure.value.where == "s3://no-such-bucket"
    assert "create it" in str(failure.value.fix)


def test_a_store_that_does_not_answer_is_an_error_with_a_fix(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RepositoryError, match="the store is unavailable") as failure:
        open_store(f"s3://{bucket}/models")
    assert "AWS_ENDPOINT_URL" in str(failure.value.fix)


def test_missing_credentials_are_an_error_with_a_fix(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(RepositoryError, match="access denied with these credentials") as failure:
        open_store(f"s3://{bucket}/models")
    assert "AWS_ACCESS_KEY_ID" in str(failure.value.fix)


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_an_interrupted_upload_is_incomplete_and_keeps_its_number(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(local: str, path: str) -> None:
        raise ConnectionResetError("the line went dead")

    monkeypatch.setattr(store._files, "put_file", broken)
    with pytest.raises(RepositoryError, match="the line went dead"):
        store.install(make_version(tmp_path / "made", 1), 1)
    assert (store.versions(), set(store.files(1))) == ([1], {CLAIM_FILE})
    with pytest.raises(RepositoryError, match="its upload has not finished"):
        manifest_of(store, 1)


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_an_installation_on_a_full_disk_leaves_no_files(store: VersionStore, tmp_path: Path) -> None:
    made = make_version(tmp_path / "made", 1, files={"model.onnx": bytes(100_000)})
    with room_for(50_000), pytest.raises(RepositoryError, match="cannot install: File too large"):
        store.install(made, 1)
    assert [path.name for path in Path(store.place("")).iterdir()] == [CONFIG_FILE]


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_a_write_on_a_full_disk_is_an_error_and_changes_nothing(store: VersionStore) -> None:
    with room_for(10), pytest.raises(ReentryError, match="File too large") as failure:
        store.write(LABELS_FILE, "x" * 1_000, over=store.read(LABELS_FILE))
    assert failure.value.where == store.place(LABELS_FILE)
    assert [path.name for path in Path(store.place("")).iterdir()] == [CONFIG_FILE]


COPYING = """
import os, shutil, sys
from pathlib import Path
from registry.open import open_store

def copy(source, target):
    Path(target).write_bytes(b"half")
    {when_half_is_copied}
    return real(source, target)

real, shutil.copyfile = shutil.copyfile, copy
print(open_store(sys.argv[1]).install(Path(sys.argv[2]), 1))
"""


def copying(store: VersionStore, made: Path, then: str) -> subprocess.Popen[str]:
    """Start a process that installs version 1 and runs the statements `then` after half of a file."""
    command = [sys.executable, "-c", COPYING.format(when_half_is_copied=then), store.location, str(made)]
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[3], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def names_in(store: VersionStore) -> set[str]:
    return {path.name for path in Path(store.place("")).iterdir()}


def scratch_in(store: VersionStore) -> list[str]:
    return [name for name in names_in(store) if name.startswith((".incoming-", ".removed-"))]


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_the_next_export_removes_the_scratch_folder_of_a_killed_one(store: VersionStore, tmp_path: Path) -> None:
    made = make_version(tmp_path / "made", 1)
    with copying(store, made, "os.kill(os.getpid(), 9)") as killed:
        assert killed.wait(60) == -signal.SIGKILL
    assert len(scratch_in(store)) == 1
    assert store.versions() == []
    store.install(made, 1)
    assert names_in(store) == {CONFIG_FILE, "1"}


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_the_scratch_folder_of_a_running_export_stays_at_any_age(store: VersionStore, tmp_path: Path) -> None:
    made = make_version(tmp_path / "made", 1)
    with copying(store, made, "print(flush=True); sys.stdin.readline()") as live:
        assert live.stdout is not None
        live.stdout.readline()
        (scratch,) = scratch_in(store)
        os.utime(store.place(scratch), (0.0, 0.0))
        store.install(make_version(tmp_path / "other", 2), 2)
        assert scratch_in(store) == [scratch]
        output, _ = live.communicate("\n" * 9, timeout=60)
    assert output.split() == [store.place(1)]
    assert names_in(store) == {CONFIG_FILE, "1", "2"}
    assert faults_of(store, find(store, 1)) == []


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_the_scratch_folder_of_another_machine_stays_for_a_day(store: VersionStore, tmp_path: Path) -> None:
    young, old, buried = (Path(store.place(name)) for name in (".incoming-there-1", ".incoming-2", ".removed-there-3"))
    for folder in (young, old, buried):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
    for folder in (old, buried):
        os.utime(folder, (time.time() - 25 * 3600,) * 2)
    store.install(make_version(tmp_path / "made", 1), 1)
    assert names_in(store) == {CONFIG_FILE, "1", young.name}


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_scratch_folders_are_judged_by_age_on_a_file_system_without_locks(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    young, old = (Path(store.place(f".incoming-{socket.gethostname()}-{name}")) for name in ("young", "old"))
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (0.0, 0.0))
    store.install(make_version(tmp_path / "made", 1), 1)
    assert names_in(store) == {CONFIG_FILE, "1", young.name}


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_an_installed_version_is_readable_by_other_users(store: VersionStore, tmp_path: Path) -> None:
    made = make_version(tmp_path / "made", 1)
    (made / "model.onnx").chmod(0o600)
    folder = Path(store.install(made, 1))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_a_repository_that_cannot_be_written_is_an_error(store: VersionStore, tmp_path: Path) -> None:
    made = make_version(tmp_path / "made", 1)
    shutil.rmtree(store.place(""))
    Path(store.place("")).write_text("a file where the folder was")
    with pytest.raises(RepositoryError, match="cannot install: Not a directory"):
        store.install(made, 1)


def test_a_missing_s3fs_package_is_an_error_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(RepositoryError, match="s3fs is missing") as failure:
        open_store("s3://bucket/models")
    assert "[s3]" in str(failure.value.fix)
