"""Keys in AWS Secrets Manager, and erasure from a bucket that keeps earlier versions of its objects."""

from __future__ import annotations

import io
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from botocore.session import Session

from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake
from pipeline.lake.storage import Storage
from pipeline.privacy.audit import audit
from pipeline.privacy.erase import erase
from pipeline.privacy.keys import PseudonymKeys, add_key, as_text, load_keys, new_keys
from pipeline.privacy.pseudonyms import SENSOR, pseudonyms
from reentry.errors import ConfigError, LakeError
from tests.landing import HOUR, flat_track, land, pipeline_settings

ONE, TWO = 4711001, 4711002


@pytest.fixture
def secrets(moto: str) -> Any:
    """Client of Secrets Manager."""
    return Session().create_client("secretsmanager")


@pytest.fixture
def secret(secrets: Any, tmp_path: Path) -> str:
    """Reference to a new secret with one key."""
    name = f"test/{uuid.uuid4().hex}"
    secrets.create_secret(Name=name, SecretString=as_text(new_keys(tmp_path / "first.json")))
    return f"aws-secretsmanager:{name}"


def test_a_key_is_added_to_the_secret(secret: str, tmp_path: Path) -> None:
    before = load_keys(secret)
    assert before == load_keys(f"file:{tmp_path / 'first.json'}")
    after = add_key(secret)
    assert load_keys(secret) == after
    assert after.keys[:1] == before.keys


def test_a_key_that_another_process_adds_meanwhile_is_not_lost(
    secret: str, secrets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[PseudonymKeys] = []

    def text_while_another_adds(keys: PseudonymKeys) -> str:
        monkeypatch.setattr("pipeline.privacy.keys.as_text", as_text)
        added.append(add_key(secret))
        return as_text(keys)

    monkeypatch.setattr("pipeline.privacy.keys.as_text", text_while_another_adds)
    with pytest.raises(ConfigError) as caught:
        add_key(secret)
    assert caught.value.problem == "another process has changed the keys"
    assert load_keys(secret) == added[0]
    assert len(add_key(secret).keys) == 3


def test_a_missing_secret_is_an_error_with_its_reason(secrets: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_keys("aws-secretsmanager:no/such/secret")
    assert caught.value.problem == "the pseudonym keys are unavailable in AWS Secrets Manager"
    assert caught.value.got == "ResourceNotFoundException"


def test_ingestion_stops_before_it_reads_or_writes_if_the_key_is_unavailable(secrets: Any, tmp_path: Path) -> None:
    settings = pipeline_settings(tmp_path, pseudonym_keys="aws-secretsmanager:no/such/secret")
    land(settings, "a.csv", flat_track(1, sensor=ONE))
    with pytest.raises(ConfigError):
        ingest(settings, [HOUR])
    assert not Path(settings.lake).exists()


def test_a_secret_without_text_is_an_error(secrets: Any) -> None:
    secrets.create_secret(Name="test/binary", SecretBinary=b"\x00")
    with pytest.raises(ConfigError) as caught:
        load_keys("aws-secretsmanager:test/binary")
    assert caught.value.problem == "the secret of the pseudonym keys is not a text"


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the audit from finding copies that killed processes of other tests have left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.usefixtures("own_temporary_folder")
def test_erasure_removes_earlier_versions_of_objects(bucket: str, tmp_path: Path) -> None:
    local = pipeline_settings(tmp_path)
    settings = replace(local, lake=f"{bucket}/lake", landing=f"{bucket}/landing")
    name = bucket.removeprefix("s3://")
    s3 = Session().create_client("s3")
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def upload(file: str, *sensors: int) -> None:
        path = land(local, file, *(flat_track(number, sensor=sensor) for number, sensor in enumerate(sensors, 1)))
        s3.put_object(Bucket=name, Key=f"landing/{HOUR}/{file}", Body=path.read_bytes())

    upload("a.csv", ONE, TWO)
    ingest(settings, [HOUR])
    upload("a.csv", TWO, TWO, TWO)  # only an earlier version of the object names the sensor now
    upload("b.csv", ONE)
    upload("c.csv", TWO)
    s3.delete_object(Bucket=name, Key=f"landing/{HOUR}/c.csv")  # hidden, not deleted
    upload("b.csv", ONE, ONE)
    ingest(settings, [HOUR])
    lake, storage = Lake(settings.lake), Storage(settings.lake)
    # A maintenance removes the files of earlier versions, which the bucket keeps all the same.
    lake.open("raw").vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    keys = load_keys(settings.pseudonym_keys)
    one, two = (pseudonyms(SENSOR, [str(each)], keys)[str(each)] for each in (ONE, TWO))

    def stored() -> set[int]:
        files = [each for each in storage.files("raw") if each.path.endswith(".parquet")]
        tables = [pq.read_table(io.BytesIO(storage.open(each).read()), columns=["sensor_id"]) for each in files]
        return {value for table in tables for value in table["sensor_id"].to_pylist()}

    def landed() -> dict[str, int]:
        """Number of versions by file."""
        files = [each.path.split("/")[1] for each in Storage(settings.landing).files()]
        return {file: files.count(file) for file in sorted(set(files))}

    assert any(not each.is_current for each in storage.files("raw"))
    assert stored() == {one, two}
    assert landed() == {"a.csv": 2, "b.csv": 2, "c.csv": 1}
    report = erase(settings, "sensor", str(ONE))
    assert report.landing_files == 3
    assert landed() == {"a.csv": 1, "c.csv": 1}
    assert stored() == {two}
    assert set(lake.open("raw").to_pyarrow_table()["sensor_id"].to_pylist()) == {two}
    assert audit(settings).findings == []


def test_a_bucket_without_versions_is_erased_too(bucket: str, tmp_path: Path) -> None:
    local = pipeline_settings(tmp_path)
    settings = replace(local, lake=f"{bucket}/lake", landing=f"{bucket}/landing")
    path = land(local, "a.csv", flat_track(1, sensor=ONE), flat_track(2, sensor=TWO))
    body = path.read_bytes()
    Session().create_client("s3").put_object(
        Bucket=bucket.removeprefix("s3://"), Key=f"landing/{HOUR}/a.csv", Body=body
    )
    ingest(settings, [HOUR])
    mistyped = replace(settings, landing=f"{bucket}/landin")
    for command in (lambda: erase(mistyped, "sensor", str(ONE)), lambda: audit(mistyped)):
        with pytest.raises(LakeError, match="the landing folder does not exist"):
            command()
    assert erase(settings, "sensor", str(ONE)).rows == {"raw": 20}
    assert Storage(settings.landing).files() == []
    assert Lake(settings.lake).open("raw").to_pyarrow_table().num_rows == 20
