"""What all tests share: a model repository with a small network, and a real Triton server over it."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from reentry.drift import REFERENCE_FILE, FeatureReference, Reference
from reentry.schema import DERIVED_MODELS, FEATURES, SIMPLE_FEATURES
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.serving.http import CONTROL_HEADER
from tests.coverage_data import remove_half_written
from tests.toy_model import write_toy_model
from tests.versions import pin

pytest_plugins = ["tests.gateway_servers", "tests.object_store"]

REPOSITORY = Path(__file__).parents[1] / "model_repository"

SLOW_FILES = (
    "integration/test_readme.py",
    "integration/test_serving_lifecycle.py",
    "integration/test_gateway_jobs_killed.py",
    "integration/test_gateway_page.py",
    "integration/test_gateway_monitoring.py",
    "integration/test_gateway_accounts.py",
    "integration/test_gateway_events.py",
    "integration/test_gateway_log.py",
    "integration/test_gateway_scoring.py",
    "integration/test_predict.py",
    "integration/test_gateway_api.py",
    "integration/test_gateway_kserve.py",
    "integration/test_candidate.py",
    "integration/test_canary.py",
    "integration/test_gateway_traces.py",
    "integration/test_gateway_gathering.py",
    "unit/export/test_pipeline.py",
    "unit/reentry/features/test_orbit_filter.py",
    "integration/test_lake_store.py",
    "integration/test_promotion.py",
    "integration/test_retraining.py",
    "unit/pipeline/retraining/test_verdict.py",
    "unit/pipeline/retraining/test_aliases.py",
    "integration/test_gateway_jobs.py",
    "unit/training/studies/test_study.py",
    "integration/test_training_scale.py",
    "integration/test_bulk_scoring.py",
    "contract/test_k8s_scripts.py",
    "contract/test_infra.py",
    "unit/training/fit/test_processes.py",
    "integration/test_pipeline_reproduction.py",
    "unit/pipeline/features/test_training_data.py",
    "unit/pipeline/test_reproduce.py",
    "unit/export/test_gate.py",
    "unit/reentry/simulation/test_ballistic.py",
    "integration/test_perf_analyzer.py",
    "integration/test_orbit_serving.py",
    "unit/export/test_stream_graph.py",
    "unit/export/test_live_equality.py",
    "unit/reentry/features/test_orbit.py",
    "integration/test_fast_path.py",
    "integration/test_sequences.py",
    "integration/test_scan.py",
    "integration/test_stream.py",
    "integration/test_stream_command.py",
    "integration/test_refined_onsets.py",
    "unit/client/stream/test_replay_buffer.py",
    "unit/export/test_track_graph.py",
    "unit/reentry/triton/test_live_feed.py",
    "unit/reentry/test_refinement.py",
    "unit/training/evaluation/test_evaluate.py",
    "unit/registry/test_store.py",
    "unit/export/tensorrt/test_node.py",
    "integration/test_monitoring.py",
    "integration/test_feed_route.py",
    "integration/test_overload.py",
    "integration/test_perf_stream.py",
    "integration/test_export_serving.py",
    "unit/perf/formats/test_benchmark.py",
    "unit/training/data/test_identity.py",
    "unit/pipeline/flows/test_jobs.py",
    "unit/pipeline/flows/test_sensors.py",
    "unit/pipeline/flows/test_tables.py",
    "unit/registry/test_models.py",
    "unit/registry/test_derived_models.py",
    "unit/registry/test_candidate.py",
    "unit/gateway/inference_log/test_log.py",
    "unit/gateway/database/test_engine.py",
    "unit/gateway/accounts/test_limits.py",
    "unit/gateway/events/test_bus.py",
    "unit/gateway/events/test_publish.py",
    "unit/gateway/kserve/test_requests.py",
    "unit/gateway/scoring/test_bodies.py",
    "unit/gateway/jobs/test_worker.py",
    "unit/gateway/jobs/test_leases.py",
    "unit/gateway/jobs/test_deliveries.py",
    "unit/gateway/jobs/test_files.py",
    "unit/gateway/jobs/test_routes.py",
    "unit/gateway/comparison/test_experiments.py",
    "unit/gateway/comparison/test_confidence.py",
    "unit/gateway/comparison/test_outcomes.py",
    "unit/gateway/comparison/test_daily_drift.py",
    "unit/gateway/comparison/test_drift.py",
    "contract/test_k8s_manifests.py",
    "contract/test_monitoring.py",
    "contract/test_container.py",
    "unit/cli/test_bad_input.py",
    "unit/training/studies/test_known_path.py",
    "unit/reentry/features/test_motion.py",
    "unit/training/runs/test_card.py",
    "unit/perf/analyzer/test_ceiling.py",
    "unit/perf/tuning/test_search.py",
    "unit/pipeline/clean/test_build.py",
    "unit/training/studies/test_prior_transfer.py",
    "unit/gateway/middleware/test_idempotency.py",
    "unit/pipeline/privacy/test_writers.py",
    "unit/pipeline/ingest/test_anomalies.py",
    "unit/reentry/features/test_track.py",
    "unit/export/test_graphs.py",
    "unit/training/runs/test_recorder.py",
    "unit/export/tensorrt/test_export.py",
    "unit/reentry/tracks/test_fuzz.py",
    "unit/client/test_garbage_server.py",
    "unit/reentry/triton/test_telemetry.py",
    "unit/reentry/simulation/test_flight.py",
    "unit/training/test_train.py",
    "unit/reentry/test_training_range.py",
    "unit/export/tensorrt/test_engines.py",
    "unit/training/models/test_baselines.py",
    "unit/reentry/tracks/test_properties.py",
    "integration/test_planted_ids.py",
    "integration/test_privacy_store.py",
    "unit/pipeline/privacy/test_erase.py",
    "unit/pipeline/privacy/test_audit.py",
    "unit/pipeline/privacy/test_rekey.py",
    "unit/client/test_outputs.py",
    "unit/reentry/tracks/test_csv_numbers.py",
    "integration/test_perf_predict.py",
    "integration/test_perf_bulk.py",
    "integration/test_perf_feature_build.py",
    "unit/training/fit/test_fit.py",
    "unit/training/fit/test_resume.py",
    "unit/training/studies/test_label_rules.py",
    "unit/training/studies/test_ablation.py",
)
"""Files that take more than about five seconds, the longest first: they train, start processes or try many inputs.

They start first, so that no long file is left over for one worker at the end. `make test-unit` leaves them out.
"""

# Threads of PyTorch that have no work spin, which doubles the time of the small networks here. PyTorch reads this
# later, when it is imported, and so does what the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A runner started by nohup ignores SIGHUP, one in a shell's background SIGINT, and so would what the tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the slow files as slow, and run them first."""
    rank = {Path(__file__).parent / name: number for number, name in enumerate(SLOW_FILES)}
    missing = [str(path) for path in rank if not path.exists()]
    if missing:
        raise pytest.UsageError(f"SLOW_FILES in tests/conftest.py names missing files: {', '.join(missing)}")
    for item in items:
        if item.path in rank:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: rank.get(item.path, len(rank)))  # stable: the order within a file stays


def pytest_collection_finish() -> None:
    """Exempt everything that the collection created from garbage collection, which takes half a second otherwise."""
    gc.freeze()


@pytest.hookimpl(wrapper=True, trylast=True)  # within the wrapper of pytest-cov, which then combines the files
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Remove the coverage data of processes that were killed while they wrote it."""
    result = yield
    if session.config.pluginmanager.hasplugin("_cov") and not hasattr(session.config, "workerinput"):
        remove_half_written(session.config.rootpath)
    return result


def copy_repository(folder: Path) -> Path:
    """The project's repository without versions of the network, as a clone has it: version 1 is the one to serve."""

    def left_out(parent: str, names: list[str]) -> set[str]:
        is_versioned = Path(parent).name in ("reentry_lstm", *(derived.name for derived in DERIVED_MODELS))
        versions = {name for name in names if name.isdigit()} if is_versioned else set()
        return versions | {"__pycache__", "labels.json"}

    repository = shutil.copytree(REPOSITORY, folder / "model_repository", ignore=left_out)
    pin(repository, 1)
    return repository


def make_repository(folder: Path) -> Path:
    """The same with version 1 of a small network, which has no graphs for the derived models."""
    repository = copy_repository(folder)
    for model in (model for derived in DERIVED_MODELS for model in derived.served_with):
        shutil.rmtree(repository / model.name)
    write_toy_model(repository / "reentry_lstm" / "1" / "model.onnx", version=1)
    write_reference(repository / "reentry_lstm" / "1")
    return repository


def write_reference(version: Path) -> None:
    """Write the reference of a version that uses no orbit features.

    Without it, each process that computes features loads the orbit filter: a second and more of its start.
    """
    features = {
        name: FeatureReference(edges=(0.0, 1.0), shares=(1.0,), used=name in SIMPLE_FEATURES) for name in FEATURES
    }
    (version / REFERENCE_FILE).write_text(json.dumps(Reference(features=features, reentry_share=0.5).as_dict()))


def on_free_ports(repository: Path, **settings: Any) -> ServerConfig:
    """Settings of a server on free ports that shuts down within a second.

    A Triton server stops the processes of its Python models one after the other, and needs more than a second for each.
    With a short drain timeout the server does not wait for them. On a loaded machine it needs more time for its start.
    """
    given = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "drain_timeout": 0.1, "start_timeout": 300.0}
    return ServerConfig(model_repository=repository, **given | settings)


def grpc_key(server: EmbeddedServer) -> dict[str, str]:
    """Headers of a gRPC request that changes the server."""
    return {f"triton-grpc-protocol-{CONTROL_HEADER}": server.control_key}


@pytest.fixture(scope="session", autouse=True)
def store_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where trainings of tests are recorded, those of commands that they start among them."""
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{tmp_path_factory.mktemp('runs') / 'mlflow.db'}"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture(scope="session")
def model_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: read only."""
    return make_repository(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def two_paths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: read only. A repository whose ensemble and reentry_track run the same small network."""
    from export.graphs import whole_graph
    from export.track_graph import track_graph
    from tests.exporting import deciding
    from training.config import ModelConfig

    repository = copy_repository(tmp_path_factory.mktemp("paths"))
    checkpoint = deciding(ModelConfig(hidden=8))
    for name, graph in (("reentry_lstm", whole_graph(checkpoint, 1)), ("reentry_track", track_graph(checkpoint, 1))):
        (repository / name / "1").mkdir()
        (repository / name / "1" / "model.onnx").write_bytes(graph.SerializeToString())
    write_reference(repository / "reentry_lstm" / "1")
    return repository


@pytest.fixture(scope="session")
def track_alone(two_paths: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: read only. A repository that holds only reentry_track, so that its server starts fast."""
    repository = tmp_path_factory.mktemp("alone") / "model_repository"
    shutil.copytree(two_paths / "reentry_track", repository / "reentry_track")
    return repository


@pytest.fixture(scope="session")
def server(model_repository: Path) -> Iterator[EmbeddedServer]:
    """A running server on free ports, one for all tests."""
    with EmbeddedServer(on_free_ports(model_repository)) as running:
        yield running
