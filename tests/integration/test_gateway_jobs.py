"""Jobs of the gateway with a real Triton: the same bytes as `reentry predict`, whatever is cancelled or killed."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from standardwebhooks import Webhook

from client.outputs import REFINED
from client.predict import PredictConfig, predict_file
from reentry.serving import EmbeddedServer
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from tests.gateway_servers import GatewayProcess, running_gateway, wait_until
from tests.job_client import JobClient, running_receiver
from tests.network_link import Link, open_link


@dataclass
class Gateway:
    """A running gateway with a client of its first account."""

    process: GatewayProcess
    client: JobClient
    triton: Link
    """Link between the gateway and Triton."""


@pytest.fixture(scope="module")
def gateway(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway with SQLite and one worker for the tests that kill nothing."""
    folder = tmp_path_factory.mktemp("gateway")
    with (
        open_link(server.grpc_url) as link,
        running_gateway(
            folder, triton_url=f"grpc://127.0.0.1:{link.port}", webhooks_to="127.0.0.1/32", timeout=5
        ) as process,
    ):
        client = JobClient(process.url, process.key)
        yield Gateway(process, client, link)
        client.close()


@pytest.fixture
def table() -> pd.DataFrame:
    """Seven tracks, one of which is invalid."""
    table = simulate_trapezoid(TrapezoidConfig(tracks=7, shortest=30, longest=90, seed=3, labels=False))
    table.loc[table["track_id"] == 2, "latitude"] = 95.0
    return table


@pytest.fixture
def source(tmp_path: Path, table: pd.DataFrame) -> Path:
    path = tmp_path / "tracks.csv"
    table.to_csv(path, index=False)
    return path


def predicted(server: EmbeddedServer, source: Path) -> Path:
    """Score a file as `reentry predict` does, and return the folder of the results."""
    out = source.with_name("predicted")
    predict_file(PredictConfig(source=source, out=out, url=f"grpc://{server.grpc_url}"))
    return out


def test_a_job_gives_the_bytes_of_reentry_predict_and_lists_every_fault(
    gateway: Gateway, server: EmbeddedServer, source: Path, table: pd.DataFrame
) -> None:
    created = gateway.client.create(source)
    assert (created["state"], created["bytes"], created["tracks"]) == ("validating", source.stat().st_size, None)
    job = gateway.client.wait(created["id"])
    assert job["state"] == "completed", job
    assert (job["rows"], job["tracks"], job["tracks_done"], job["tracks_refused"]) == (len(table), 7, 6, 1)
    assert (job["progress"], job["model_version"], job["error"]) == (1.0, 1, None)
    expected = predicted(server, source)
    for file in ("predictions", "onsets"):
        assert gateway.client.result(job["id"], file) == (expected / f"{file}.csv").read_bytes()
    lines = [json.loads(line) for line in gateway.client.result(job["id"], "inference").splitlines()]
    assert [line["track_id"] for line in lines] == [0, 1, 3, 4, 5, 6]
    rows = gateway.client.request("GET", f"/v1/jobs/{job['id']}/errors", headers={"accept": "text/csv"})
    assert rows.content == (expected / "set_aside.csv").read_bytes()
    errors = gateway.client.request("GET", f"/v1/jobs/{job['id']}/errors").json()
    assert errors["error"] is None
    (track,) = errors["tracks"]
    assert (track["track_id"], track["rows"]) == (2, (table["track_id"] == 2).sum())
    assert [(fault["column"], fault["got"]) for fault in track["faults"]] == [("latitude", "95")]


def test_the_tracks_of_a_job_are_in_the_usage_and_in_the_inference_log(gateway: Gateway, source: Path) -> None:
    before = gateway.client.request("GET", "/v1/usage").json()["total"]
    job = gateway.client.wait(gateway.client.create(source)["id"])
    assert (job["state"], job["tracks_done"]) == ("completed", 6)
    onsets = pd.read_csv(io.BytesIO(gateway.client.result(job["id"], "onsets"))).set_index("track_id")
    after = gateway.client.request("GET", "/v1/usage").json()["total"]
    used = {name: after[name] - before[name] for name in ("requests", "tracks", "refused", "cached")}
    assert used == {"requests": 1, "tracks": 6, "refused": 1, "cached": 0}
    data = Path(gateway.process.environment["REENTRY_GATEWAY_DATA"])
    with closing(sqlite3.connect(data / "gateway.db")) as database:
        columns = "track_id, steps, onset_timestamp, model, model_version, key_id"
        id_of_job = "SELECT request_id FROM jobs WHERE id = ?"
        query = f"SELECT {columns} FROM inference_log WHERE request_id = ({id_of_job}) ORDER BY track_id"
        rows = database.execute(query, [job["id"]]).fetchall()
    assert [row[0] for row in rows] == [0, 1, 3, 4, 5, 6]
    assert sum(row[1] for row in rows) == after["steps"] - before["steps"] >= onsets["rows"].sum()
    got = pd.Series({row[0]: row[2] for row in rows}, dtype="float64")
    pd.testing.assert_series_equal(got, onsets["onset_timestamp"], check_names=False, check_dtype=False)
    assert {row[3:] for row in rows} == {("reentry", 1, gateway.process.key.split("_")[1])}


def test_results_as_parquet_and_arrow_have_the_values_of_the_csv(gateway: Gateway, source: Path) -> None:
    job_id = gateway.client.create(source)["id"]
    gateway.client.wait(job_id)
    for file in ("predictions", "onsets"):
        expected = pd.read_csv(io.BytesIO(gateway.client.result(job_id, file)))
        parquet = gateway.client.result(job_id, file, "application/vnd.apache.parquet")
        arrow = gateway.client.result(job_id, file, "application/vnd.apache.arrow.stream")
        table = pq.read_table(io.BytesIO(parquet))
        assert table.schema.field("track_id").type == pa.int64()
        assert table.equals(pa.ipc.open_stream(arrow).read_all())
        got = table.to_pandas()
        assert got.columns.tolist() == expected.columns.tolist()
        pd.testing.assert_frame_equal(got, expected, check_dtype=False)
        assert got.columns.isin(REFINED).any() == (file == "onsets")
    answer = gateway.client.request("GET", f"/v1/jobs/{job_id}/results", headers={"accept": "image/png"})
    assert (answer.status_code, answer.json()["code"]) == (406, "not-acceptable")


@pytest.mark.parametrize("suffix", [".parquet", ".arrows"])
def test_parquet_and_arrow_uploads_give_the_results_of_parquet(
    gateway: Gateway, server: EmbeddedServer, table: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    source = tmp_path / "tracks.parquet"
    table.to_parquet(source)
    expected = predicted(server, source)
    if suffix == ".arrows":
        content = pq.read_table(source)
        source = source.with_suffix(suffix)
        with pa.OSFile(str(source), "wb") as file, pa.ipc.new_stream(file, content.schema) as stream:
            stream.write_table(content)
    job = gateway.client.wait(gateway.client.create(source)["id"])
    assert job["state"] == "completed", job
    assert gateway.client.result(job["id"]) == (expected / "predictions.csv").read_bytes()


def test_a_file_that_is_no_table_of_tracks_fails_with_the_reason(gateway: Gateway, tmp_path: Path) -> None:
    source = tmp_path / "wrong.csv"
    source.write_text("timestamp,track\n1,2\n")
    job = gateway.client.wait(gateway.client.create(source)["id"])
    assert job["state"] == "failed"
    assert job["error"]["code"] == "invalid-tracks"
    assert "missing columns track_id (is it 'track'?)" in job["error"]["detail"]
    assert job["error"]["where"] == "source.csv", "no path of the server"
    answer = gateway.client.request("GET", f"/v1/jobs/{job['id']}/results")
    assert (answer.status_code, answer.json()["got"]) == (409, "failed")
    errors = gateway.client.request("GET", f"/v1/jobs/{job['id']}/errors").json()
    assert (errors["error"], errors["tracks"]) == (job["error"], [])


def test_events_report_every_state_and_end_with_the_job(gateway: Gateway, source: Path) -> None:
    job_id = gateway.client.create(source)["id"]
    answer = gateway.client.request("GET", f"/v1/jobs/{job_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [dict(line.split(": ", 1) for line in part.split("\n")) for part in answer.text.split("\n\n")[1:] if part]
    assert {event["event"] for event in events} == {"job"}
    jobs = [json.loads(event["data"]) for event in events]
    assert [int(event["id"]) for event in events] == [job["revision"] for job in jobs]
    assert jobs[-1]["state"] == "completed"
    assert [job["revision"] for job in jobs] == sorted({job["revision"] for job in jobs})
    last = {"last-event-id": events[-1]["id"]}
    assert gateway.client.request("GET", f"/v1/jobs/{job_id}/events", headers=last).status_code == 204
    earlier = {"last-event-id": str(int(events[-1]["id"]) - 1)}
    again = gateway.client.request("GET", f"/v1/jobs/{job_id}/events", headers=earlier).text
    assert again.count("event: job") == 1


def test_a_deleted_job_leaves_no_file(gateway: Gateway, source: Path) -> None:
    job_id = gateway.client.create(source)["id"]
    gateway.client.wait(job_id)
    folder = Path(gateway.process.environment["REENTRY_GATEWAY_DATA"]) / "jobs" / job_id
    assert (folder / "source.csv").exists()
    assert gateway.client.request("DELETE", f"/v1/jobs/{job_id}").status_code == 204
    assert not folder.exists()
    assert gateway.client.request("GET", f"/v1/jobs/{job_id}").status_code == 404


def test_a_webhook_announces_the_end_of_a_job(gateway: Gateway, source: Path) -> None:
    secret = gateway.client.request("POST", "/v1/webhook-secret").json()["secret"]
    with running_receiver() as receiver:
        job_id = gateway.client.create(source, webhook_url=receiver.url)["id"]
        wait_until(lambda: bool(receiver.received), seconds=120, what="the webhook")
        ((headers, body),) = receiver.received
    message = Webhook(secret).verify(body, headers)
    assert (message["type"], message["data"]["id"], message["data"]["tracks_done"]) == ("job.completed", job_id, 6)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose answers have about 400,000 bytes."""
    path = tmp_path_factory.mktemp("many") / "tracks.parquet"
    simulate_trapezoid(TrapezoidConfig(tracks=400, shortest=150, longest=250, seed=5, labels=False)).to_parquet(path)
    return path


def test_a_cancelled_job_keeps_the_rows_that_were_scored(gateway: Gateway, server: EmbeddedServer, many: Path) -> None:
    client = gateway.client
    gateway.triton.hold(after=150_000)
    try:
        job_id = client.create(many)["id"]
        wait_until(lambda: gateway.triton.is_holding, seconds=120, what="the middle of the job")
        wait_until(lambda: client.show(job_id)["tracks_done"] > 0, seconds=120, what="progress of the job")
        answer = client.request("DELETE", f"/v1/jobs/{job_id}")
        assert (answer.status_code, answer.json()["state"]) == (202, "cancelling")
        job = client.wait(job_id)
    finally:
        gateway.triton.release()
    assert job["state"] == "cancelled"
    assert 0 < job["tracks_done"] < job["tracks"] == 400
    expected = pd.read_csv(predicted(server, many) / "predictions.csv")
    got = pd.read_csv(io.BytesIO(client.result(job_id)))
    scored = got["reentry_phase"].notna()
    assert len(got) == len(expected) == job["rows"]
    pd.testing.assert_frame_equal(got[scored], expected[scored], check_dtype=False)
    assert got.loc[~scored, "reentry_probability"].isna().all()
    assert got.loc[scored, "track_id"].nunique() == job["tracks_done"]
    assert got.loc[~scored, "track_id"].nunique() == job["tracks"] - job["tracks_done"]
    assert len(pd.read_csv(io.BytesIO(client.result(job_id, "onsets")))) == job["tracks_done"]
    assert client.result(job_id, "inference").count(b"\n") == job["tracks_done"]


def test_jobs_wait_for_triton_until_their_deadline(gateway: Gateway, source: Path) -> None:
    client = gateway.client
    gateway.triton.hold()
    try:
        late = client.create(source, deadline_seconds=20)["id"]
        patient = client.create(source)["id"]
        assert client.wait(late, "running")["attempts"] == 1
        job = client.wait(late)
        assert (job["state"], job["error"]["code"], job["tracks_done"]) == ("expired", "job-expired", 0)
        answer = client.request("GET", f"/v1/jobs/{late}/results")
        assert (answer.status_code, answer.json()["got"]) == (409, "expired")
        client.wait(patient, "running")
    finally:
        gateway.triton.release()
    assert client.wait(patient)["state"] == "completed"
