"""Scans of many live tracks on the real server: equal to whole tracks, and clear about a feed whose state is lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from export.scan_graph import scan_graph
from reentry.schema import LARGEST_SCAN
from reentry.serving import EmbeddedServer
from tests.conftest import REPOSITORY, grpc_key, on_free_ports
from tests.unit.export.test_stream_graph import distinct
from tests.unit.export.test_track_graph import ballistic, every_feature, run

MODEL, STEP = "reentry_scan", "scan_step"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of scans with two versions of a network that uses every feature; the first one is served."""
    folder = tmp_path_factory.mktemp("scans") / "model_repository"
    shutil.copytree(REPOSITORY / MODEL, folder / MODEL)
    for version in (1, 2):
        (folder / STEP / str(version)).mkdir(parents=True)
        onnx.save(scan_graph(every_feature(), version), folder / STEP / str(version) / "model.onnx")
    shutil.copy(REPOSITORY / STEP / "config.pbtxt", folder / STEP)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(on_free_ports(repository)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: EmbeddedServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_url) as connected:
        yield connected


def scan(
    client: triton.InferenceServerClient, feed: str, tracks: list[int], rows: np.ndarray, **flags: bool
) -> triton.InferResult:
    ids = np.array(tracks, np.int64)
    inputs = [
        triton.InferInput("track_id", ids.shape, "INT64").set_data_from_numpy(ids),
        triton.InferInput("measurements", rows.shape, "FP64").set_data_from_numpy(np.ascontiguousarray(rows)),
    ]
    return client.infer(MODEL, inputs, sequence_id=feed, **flags)


def flights() -> list[np.ndarray]:
    return [distinct(flight)[:200] for severity in (0, 2) for flight in ballistic(severity)]


def test_two_feeds_at_once_get_the_numbers_of_whole_tracks(client: triton.InferenceServerClient) -> None:
    expected = [run(every_feature, flight[None]) for flight in flights()]
    for step in range(200):
        rows = np.stack([flight[step] for flight in flights()])
        ends = {"sequence_start": step == 0, "sequence_end": step == 199}
        for feed, order in (("a", [0, 1, 2, 3]), ("b", [3, 1, 0, 2])):
            answer = scan(client, feed, order, rows[order], **ends)
            assert answer.as_numpy("accepted").all()
            assert answer.as_numpy("started").all() == (step == 0)
            assert answer.as_numpy("model_version").tolist() == [1]
            got = answer.as_numpy("reentry_probability")
            wanted = [expected[track][0][0, step] for track in order]
            np.testing.assert_allclose(got, wanted, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("ended", [True, False])
def test_a_scan_without_start_is_refused_and_other_feeds_go_on(
    client: triton.InferenceServerClient, ended: bool
) -> None:
    row = flights()[0][:1]
    scan(client, "other", [1], row, sequence_start=True)
    if ended:
        scan(client, "ended", [1], row, sequence_start=True)
        scan(client, "ended", [], np.zeros((0, 6)), sequence_end=True)
    with pytest.raises(InferenceServerException, match="must specify the START flag") as refused:
        scan(client, "ended" if ended else "never", [1], row)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert scan(client, "other", [1], flights()[0][1:2], sequence_end=True).as_numpy("started").tolist() == [0]


def test_an_invalid_measurement_is_marked_and_the_others_are_answered(client: triton.InferenceServerClient) -> None:
    rows = np.stack([flights()[0][0], flights()[1][0] * np.nan, flights()[2][0]])
    answer = scan(client, "invalid", [1, 2, 3], rows, sequence_start=True, sequence_end=True)
    assert answer.as_numpy("accepted").tolist() == [1, 0, 1]
    assert np.isnan(answer.as_numpy("reentry_probability")).tolist() == [False, True, False]
    assert answer.as_numpy("reentry_phase")[1] == 255


@pytest.mark.parametrize(
    ("tracks", "rows", "message"),
    [
        ([], np.zeros((0, 6)), "the scan has 0 measurements"),
        ([1, 2], np.zeros((3, 6)), "track_id and measurements do not match"),
        (list(range(LARGEST_SCAN + 1)), np.zeros((LARGEST_SCAN + 1, 6)), "the scan has 10,001 measurements"),
    ],
)
def test_a_wrong_scan_is_refused_and_the_feed_goes_on(
    client: triton.InferenceServerClient, tracks: list[int], rows: np.ndarray, message: str
) -> None:
    scan(client, "wrong", [1], flights()[0][:1], sequence_start=True)
    with pytest.raises(InferenceServerException, match=message):
        scan(client, "wrong", tracks, rows)
    assert scan(client, "wrong", [1], flights()[0][1:2], sequence_end=True).as_numpy("started").tolist() == [0]


def test_a_new_version_of_the_network_refuses_the_feed_until_it_starts_again(
    server: EmbeddedServer, client: triton.InferenceServerClient, repository: Path
) -> None:
    config = repository / STEP / "config.pbtxt"
    flight = flights()[0]
    scan(client, "promoted", [1], flight[:1], sequence_start=True)
    config.write_text(config.read_text().replace("versions: 1", "versions: 2"))
    try:
        client.load_model(STEP, headers=grpc_key(server))
        with pytest.raises(InferenceServerException, match=r"from version 1 to version 2.*must specify the START flag"):
            scan(client, "promoted", [1], flight[1:2])
        with pytest.raises(InferenceServerException, match="must specify the START flag"):
            scan(client, "promoted", [1], flight[2:3])
        again = scan(client, "promoted", [1, 1, 1], flight[:3], sequence_start=True, sequence_end=True)
        assert again.as_numpy("model_version").tolist() == [2]
        np.testing.assert_allclose(
            again.as_numpy("reentry_probability"), run(every_feature, flight[None])[0][0, :3], rtol=0.0, atol=1e-5
        )
    finally:
        config.write_text(config.read_text().replace("versions: 2", "versions: 1"))
        client.load_model(STEP, headers=grpc_key(server))


def test_a_reloaded_model_has_lost_its_feeds(server: EmbeddedServer, client: triton.InferenceServerClient) -> None:
    scan(client, "reloaded", [1], flights()[0][:1], sequence_start=True)
    client.unload_model(MODEL, headers=grpc_key(server))
    client.load_model(MODEL, headers=grpc_key(server))
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        scan(client, "reloaded", [1], flights()[0][1:2])
    assert scan(client, "reloaded", [1], flights()[0][:1], sequence_start=True, sequence_end=True) is not None
