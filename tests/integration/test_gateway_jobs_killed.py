"""Jobs survive what runs them: SIGTERM and SIGKILL of the gateway, of workers and of Triton, with files on S3, too."""

from __future__ import annotations

import signal
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from client.predict import PredictConfig, predict_file
from gateway.database.migrate import migrate
from gateway.jobs.files import s3
from gateway.settings import GatewaySettings
from reentry.serving import EmbeddedServer
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from tests.gateway_servers import GatewayProcess, Server, new_postgresql_database, running_gateway, wait_until
from tests.job_client import JobClient
from tests.jobs_campaign import create_key, killing, run, running_triton, running_worker
from tests.network_link import open_link


def predicted(server: EmbeddedServer, source: Path) -> bytes:
    """Score a file as `reentry predict` does, and return the predictions."""
    out = source.with_name("predicted")
    predict_file(PredictConfig(source=source, out=out, url=f"grpc://{server.grpc_url}"))
    return (out / "predictions.csv").read_bytes()


def row(gateway: GatewayProcess, job_id: str) -> tuple[int, int, str | None]:
    """Return fence, attempts and owner of a job."""
    path = Path(gateway.environment["REENTRY_GATEWAY_DATA"]) / "gateway.db"
    with closing(sqlite3.connect(path)) as connection:
        found: tuple[int, int, str | None] = connection.execute(
            "SELECT fence, attempts, lease_owner FROM jobs WHERE id = ?", (job_id,)
        ).fetchone()
    return found


def test_a_job_resumes_after_sigterm_at_once_and_after_sigkill_when_its_lease_ends(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    source = tmp_path / "tracks.parquet"
    table = simulate_trapezoid(TrapezoidConfig(tracks=400, shortest=150, longest=250, seed=5, labels=False))
    table.to_parquet(source)
    with (
        open_link(server.grpc_url) as link,
        running_gateway(tmp_path, triton_url=f"grpc://127.0.0.1:{link.port}", lease_seconds=10, timeout=120) as gateway,
    ):
        client = JobClient(gateway.url, gateway.key)
        link.hold(after=100_000)
        job_id = str(client.create(source)["id"])

        def tracks_done() -> int:
            return int(client.show(job_id)["tracks_done"])

        wait_until(lambda: link.is_holding and tracks_done() > 0, seconds=120, what="progress of the job")
        gateway.stop(signal.SIGTERM)
        assert row(gateway, job_id) == (1, 0, None), "the lease is released, and does not count as an attempt"
        link.hold(after=100_000)
        gateway.start()
        scored = tracks_done()
        wait_until(lambda: link.is_holding and tracks_done() > scored, seconds=120, what="further progress")
        gateway.stop(signal.SIGKILL)
        fence, attempts, owner = row(gateway, job_id)
        assert (fence, attempts) == (2, 1)
        assert owner is not None
        link.release()
        gateway.start()
        job = client.wait(job_id)
        assert (job["state"], job["tracks_done"], job["tracks_refused"]) == ("completed", 400, 0)
        assert row(gateway, job_id)[0] == 3
        assert gateway.log.read_text().count("resuming: an interrupted run has scored") == 2
        assert client.result(job_id) == predicted(server, source)
        client.close()
        folder = Path(gateway.environment["REENTRY_GATEWAY_DATA"]) / "jobs" / job_id
        assert sorted(path.name for path in folder.iterdir()) == ["3", "source.parquet"]
        scratch = folder.parents[1] / "scratch"
        wait_until(lambda: not list(scratch.iterdir()), what="the temporary files of the killed process removed")


def test_every_job_ends_once_while_gateway_and_triton_are_killed(model_repository: Path, tmp_path: Path) -> None:
    with (
        ExitStack() as stack,
        running_triton(tmp_path, model_repository) as triton,
        running_gateway(tmp_path, triton_url=f"grpc://127.0.0.1:{triton.port}", lease_seconds=2) as gateway,
    ):
        client = stack.enter_context(closing(JobClient(gateway.url, gateway.key, patience=120)))
        report = run(
            tmp_path,
            jobs=12,
            files=3,
            seed=7,
            triton=triton,
            client=client,
            victims={"gateway": killing(gateway), "triton": killing(triton)},
            pauses=(2.0, 6.0),
            most_kills=4,
            seconds=600,
        )
    assert report.states == {"completed": 12}
    assert report.different == []
    assert sum(report.kills.values()) > 0, report


def test_another_worker_finishes_the_job_of_a_killed_one(
    server: EmbeddedServer, postgresql: Server, tmp_path: Path
) -> None:
    source = tmp_path / "tracks.parquet"
    simulate_trapezoid(TrapezoidConfig(tracks=200, shortest=150, longest=250, seed=5, labels=False)).to_parquet(source)
    url = new_postgresql_database(postgresql)
    migrate(GatewaySettings(data=tmp_path / "gateway", database_url=url))
    key = create_key(GatewaySettings(data=tmp_path / "gateway", database_url=url))
    with ExitStack() as stack:
        link = stack.enter_context(open_link(server.grpc_url))
        settings = {
            "triton_url": f"grpc://127.0.0.1:{link.port}",
            "database_url": url,
            "store": tmp_path / "store",
            "lease_seconds": 10,
            "timeout": 120,
        }
        gateway = stack.enter_context(running_gateway(tmp_path, **settings))
        first = stack.enter_context(running_worker(tmp_path, "first", **settings))
        client = JobClient(gateway.url, key)
        stack.callback(client.close)
        link.hold(after=80_000)
        job_id = client.create(source)["id"]
        wait_until(
            lambda: link.is_holding and client.show(job_id)["tracks_done"] > 0, seconds=120, what="progress of the job"
        )
        second = stack.enter_context(running_worker(tmp_path, "second", **settings))
        first.stop(signal.SIGKILL)
        link.release()
        assert client.wait(job_id)["state"] == "completed"
        assert client.result(job_id) == predicted(server, source)
        assert "resuming: an interrupted run has scored" in second.log.read_text()
        assert httpx.get(f"http://127.0.0.1:{second.port}/health/live", timeout=60).json() == {"live": True}
        metrics = httpx.get(f"http://127.0.0.1:{second.port}/metrics", timeout=60).text
        assert 'reentry_gateway_jobs_finished_total{state="completed"} 1.0' in metrics
        second.stop(signal.SIGTERM)
        assert second.process is not None
        assert second.process.returncode == 0
        assert second.log.read_text().rstrip().endswith("stopped")


@pytest.fixture
def bucket(moto: str) -> Iterator[str]:
    """Name of a new bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3.object_store.cache_clear()
    s3.object_store().mkdir(name)
    yield name
    s3.object_store.cache_clear()


@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
def test_uploads_references_and_results_on_s3(server: EmbeddedServer, bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "tracks.csv"
    simulate_trapezoid(TrapezoidConfig(tracks=5, shortest=30, longest=90, seed=1, labels=False)).to_csv(
        source, index=False
    )
    s3.object_store().put_file(str(source), f"{bucket}/flights/one.csv")
    settings = {"store": f"s3://{bucket}/jobs", "sources": f"s3://{bucket}/flights/"}
    with running_gateway(tmp_path, triton_url=f"grpc://{server.grpc_url}", **settings) as gateway:
        client = JobClient(gateway.url, gateway.key)
        missing = client.request("POST", "/v1/jobs", json={"source": f"s3://{bucket}/flights/two.csv"})
        assert (missing.status_code, missing.json()["detail"]) == (422, "no such object")
        answer = client.request("POST", "/v1/jobs", json={"source": f"s3://{bucket}/flights/one.csv"})
        assert answer.status_code == 202, answer.text
        jobs = [str(client.create(source)["id"]), str(answer.json()["id"])]
        expected = predicted(server, source)
        for job_id in jobs:
            assert client.wait(job_id)["state"] == "completed"
            assert client.result(job_id) == expected
        stored = s3.object_store().find(f"{bucket}/jobs")
        assert f"{bucket}/jobs/{jobs[0]}/1/predictions.csv" in stored
        assert f"{bucket}/jobs/{jobs[0]}/source.csv" in stored
        for job_id in jobs:
            assert client.request("DELETE", f"/v1/jobs/{job_id}").status_code == 204
        assert s3.object_store().find(f"{bucket}/jobs") == []
        assert s3.object_store().exists(f"{bucket}/flights/one.csv"), "a reference is not the gateway's to delete"
        client.close()
