"""Uploads and results in a folder and on S3: whole or absent, and never those of another lease."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from client.predict import JOURNAL_NAME
from gateway.jobs.files import s3
from gateway.jobs.files.opening import open_files
from gateway.jobs.files.store import JobFiles, StoreError
from gateway.settings import GatewaySettings

# s3fs allows a forgotten session 0.1 s to close its connections, which is too little on a loaded machine.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")


@pytest.fixture(params=["folder", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> JobFiles:
    """An empty store of each kind."""
    store = str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("place")
    return open_files(GatewaySettings(data=tmp_path / "gateway", store=store))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def uploaded(files: JobFiles, job_id: str, *parts: bytes) -> None:
    upload = files.upload(job_id, "source.csv")
    for part in parts:
        upload.write(part)
    upload.commit()
    upload.discard()


def results_of(files: JobFiles, job_id: str, fence: int, content: bytes, scratch: Path) -> None:
    folder = files.workplace(job_id, fence, scratch)
    (folder / "predictions.csv").write_bytes(content)
    files.keep(job_id, fence, folder)


def test_an_upload_is_whole_and_can_be_read(files: JobFiles, scratch: Path) -> None:
    large = os.urandom(9 * 2**20)  # more than one part of an upload to S3
    uploaded(files, "job_1", b"first ", large, b" last")
    assert files.source("job_1", "source.csv", scratch).read_bytes() == b"first " + large + b" last"
    assert files.job_ids() == ["job_1"]


@pytest.mark.parametrize("size", [0, 10, 9 * 2**20])
def test_a_discarded_upload_leaves_nothing(files: JobFiles, size: int) -> None:
    upload = files.upload("job_1", "source.csv")
    upload.write(bytes(size))
    upload.discard()
    files.remove("job_1")
    assert files.job_ids() == []
    if isinstance(files, s3.S3Files):
        bucket = files._root.partition("/")[0]
        assert s3.object_store().call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads", []) == []


def test_results_of_two_leases_are_apart_until_the_job_is_tidied(files: JobFiles, scratch: Path) -> None:
    uploaded(files, "job_1", b"x")
    results_of(files, "job_1", 2, b"of the winner", scratch)
    results_of(files, "job_1", 7, b"of a later lease", scratch)
    if isinstance(files, s3.S3Files):  # a folder is tidied when the next lease begins
        assert files.size("job_1", 2, "predictions.csv") == len(b"of the winner")
    files.tidy("job_1", 7)
    assert files.size("job_1", 2, "predictions.csv") is None
    assert files.size("job_1", 7, "onsets.csv") is None
    with files.open("job_1", 7, "predictions.csv") as file:
        assert file.read() == b"of a later lease"
    files.discard("job_1", 7)
    files.discard("job_1", 7)
    with pytest.raises((StoreError, FileNotFoundError)):
        files.open("job_1", 7, "predictions.csv")
    assert files.job_ids() == ["job_1"], "the upload stays"
    files.remove("job_1")
    files.remove("job_1")
    assert files.job_ids() == []


def test_a_late_worker_removes_nothing_of_a_newer_lease(files: JobFiles, scratch: Path) -> None:
    uploaded(files, "job_1", b"x")
    results_of(files, "job_1", 10, b"of the winner", scratch)
    results_of(files, "job_1", 9, b"of the late one", scratch)
    files.tidy("job_1", 9)
    with files.open("job_1", 10, "predictions.csv") as file:
        assert file.read() == b"of the winner"
    files.discard("job_1", 9)
    assert files.size("job_1", 9, "predictions.csv") is None
    assert files.size("job_1", 10, "predictions.csv") == len(b"of the winner")


def test_the_next_lease_continues_with_a_copy_of_the_fullest_journal(tmp_path: Path, scratch: Path) -> None:
    files = open_files(GatewaySettings(data=tmp_path / "gateway", store=str(tmp_path / "store")))
    uploaded(files, "job_1", b"x")
    first = files.workplace("job_1", 1, scratch)
    assert list(first.iterdir()) == []
    journal = (first / JOURNAL_NAME).open("wb")
    journal.write(b"scored")
    journal.flush()
    second = files.workplace("job_1", 2, scratch)
    journal.write(b" by a zombie")
    journal.close()
    assert (second / JOURNAL_NAME).read_bytes() == b"scored"
    assert not first.exists()
    assert [path.name for path in second.iterdir()] == [JOURNAL_NAME]


def test_only_the_user_of_the_gateway_can_read_the_files_of_a_job(tmp_path: Path) -> None:
    files = open_files(GatewaySettings(data=tmp_path / "gateway", store=str(tmp_path / "store")))
    uploaded(files, "job_1", b"x")
    assert stat.S_IMODE((tmp_path / "store" / "job_1").stat().st_mode) == 0o700


def test_a_store_that_cannot_be_written_is_an_error_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    files = open_files(GatewaySettings(data=tmp_path / "gateway", store=str(tmp_path / "store")))
    with pytest.raises(StoreError, match="the store of files cannot be used: Not a directory") as error:
        files.upload("job_1", "source.csv")
    assert str(tmp_path) not in str(error.value)


def test_an_object_store_that_is_away_is_an_error(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3.object_store.cache_clear()
    with pytest.raises(StoreError, match="the object store is unavailable"):
        s3.object_size(f"{place}/tracks.csv")
