"""Sequences of the embedded onnxruntime backend on the real server, against the documented semantics of Triton."""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from export.stream_graph import stream_graph
from reentry.serving import EmbeddedServer, ServerConfig
from registry.config_pbtxt import pinned
from registry.formats import FORMATS, Format
from registry.live_server import LiveServer
from tests.conftest import REPOSITORY, on_free_ports
from tests.unit.export.test_stream_graph import default, stream, trapezoids

MODEL = "reentry_stream"
SLOTS, IDLE = 8, 5.0
CONFIG = REPOSITORY / MODEL / "config.pbtxt"


def make_repository(folder: Path, *versions: int, slots: int, idle: float) -> Path:
    """Make a repository that holds only reentry_stream, with slots for each instance and an idle time in s."""
    for version in versions:
        (folder / MODEL / str(version)).mkdir(parents=True)
        onnx.save(stream_graph(default(), version), folder / MODEL / str(version) / "model.onnx")
    text = CONFIG.read_text()
    in_file = slots * ServerConfig().fitted_instances // 2  # the file has two instances; the server keeps the total
    for setting, value in (("max_sequence_idle_microseconds", round(idle * 1e6)), ("max_candidate_sequences", in_file)):
        text, changes = re.subn(rf"{setting}: \d+", f"{setting}: {value}", text)
        assert changes == 1
    (folder / MODEL / "config.pbtxt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    """Client of a server with few slots for each instance."""
    repository = make_repository(tmp_path_factory.mktemp("repository"), 1, slots=SLOTS, idle=600.0)
    with EmbeddedServer(on_free_ports(repository)) as server, triton.InferenceServerClient(server.grpc_url) as made:
        yield made


def inputs(row: np.ndarray) -> list[triton.InferInput]:
    tensor = triton.InferInput("measurement", [1, len(row)], "FP64")
    return [tensor.set_data_from_numpy(row[None])]


def send(
    client: triton.InferenceServerClient, row: int, track: str | int, *, start: bool = False, end: bool = False
) -> float:
    """Send a row of a flight, and return the probability."""
    answer = client.infer(
        MODEL, inputs(trapezoids()[0][row]), sequence_id=track, sequence_start=start, sequence_end=end
    )
    return float(answer.as_numpy("reentry_probability")[0, 0])


def expected(rows: int) -> list[float]:
    return [float(answer["reentry_probability"][0, 0]) for answer in stream(default, trapezoids()[0][:rows])]


def test_the_state_is_kept_between_the_requests_of_a_sequence(client: triton.InferenceServerClient) -> None:
    got = [send(client, row, "kept", start=row == 0, end=row == 29) for row in range(30)]
    np.testing.assert_allclose(got, expected(30), rtol=0.0, atol=1e-6)


def test_start_resets_the_state_also_within_a_sequence(client: triton.InferenceServerClient) -> None:
    first = [send(client, row, "reset", start=row == 0) for row in range(5)]
    again = [send(client, row, "reset", start=row == 0, end=row == 4) for row in range(5)]
    assert first == again


@pytest.mark.parametrize("track", ["never started", "ended"])
def test_a_request_without_start_is_refused(client: triton.InferenceServerClient, track: str) -> None:
    if track == "ended":
        send(client, 0, track, start=True, end=True)
    with pytest.raises(InferenceServerException, match="must specify the START flag") as refused:
        send(client, 1, track)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_an_idle_sequence_is_dropped_and_the_others_go_on(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, 1, slots=SLOTS, idle=IDLE)
    with EmbeddedServer(on_free_ports(repository)) as server, triton.InferenceServerClient(server.grpc_url) as client:
        send(client, 0, "idle", start=True)
        before = [send(client, 0, "active", start=True)]
        row, begun = 1, time.monotonic()
        while time.monotonic() - begun < IDLE + 1.0:
            before.append(send(client, row, "active"))
            row += 1
            time.sleep(0.2)
        with pytest.raises(InferenceServerException, match="must specify the START flag"):
            send(client, 1, "idle")
        before.append(send(client, row, "active", end=True))
    np.testing.assert_allclose(before, expected(row + 1), rtol=0.0, atol=1e-6)


def test_the_correlation_id_zero_is_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="non-zero or non-empty correlation ID"):
        send(client, 0, 0, start=True)


def test_a_request_of_the_wrong_shape_leaves_the_state_intact(client: triton.InferenceServerClient) -> None:
    got = [send(client, 0, "shape", start=True)]
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        client.infer(MODEL, inputs(np.zeros(5)), sequence_id="shape")
    got += [send(client, row, "shape", end=row == 3) for row in range(1, 4)]
    np.testing.assert_allclose(got, expected(4), rtol=0.0, atol=1e-6)


def test_requests_of_many_sequences_are_joined_into_one_run(client: triton.InferenceServerClient) -> None:
    def batches() -> dict[int, int]:
        (model,) = client.get_inference_statistics(MODEL).model_stats
        return {each.batch_size: each.compute_infer.count for each in model.batch_stats}

    def send_all(row: int, *, start: bool = False, end: bool = False) -> None:
        """Send a row of every sequence at once, and check the answers."""
        for track in range(SLOTS):
            client.async_infer(
                MODEL, inputs(trapezoids()[0][row]), take,
                sequence_id=f"joined/{track}", sequence_start=start, sequence_end=end,
            )  # fmt: skip
        got = [answers.get(timeout=240) for _ in range(SLOTS)]
        np.testing.assert_allclose(got, np.full(SLOTS, probability[row]), rtol=0.0, atol=1e-6)

    def take(result: triton.InferResult | None, error: Exception | None) -> None:
        answers.put(error or float(result.as_numpy("reentry_probability")[0, 0]))

    before, answers = batches(), queue.Queue[float | Exception]()
    rows = 100
    probability = expected(rows)
    send_all(0, start=True)
    row = 1
    while row < rows - 1:  # requests wait for a run that has begun, sooner or later
        send_all(row)
        row += 1
        if any(count > before.get(size, 0) for size, count in batches().items() if size > 1):
            break
    else:
        pytest.fail("no two requests were joined")
    send_all(row, end=True)


def fill(client: triton.InferenceServerClient) -> int:
    """Start a sequence in every slot; return their number."""
    config = client.get_model_config(MODEL).config
    slots = config.instance_group[0].count * config.sequence_batching.oldest.max_candidate_sequences
    for track in range(slots):
        send(client, 0, f"slot/{track}", start=True)
    return slots


def test_a_start_beyond_the_slots_waits_until_a_slot_is_free(client: triton.InferenceServerClient) -> None:
    slots = fill(client)
    answered = queue.Queue[object]()
    client.async_infer(
        MODEL, inputs(trapezoids()[0][0]), lambda result, error: answered.put(error or result),
        sequence_id="one too many", sequence_start=True, sequence_end=True,
    )  # fmt: skip
    with pytest.raises(queue.Empty):
        answered.get(timeout=0.5)
    send(client, 1, "slot/0", end=True)
    assert isinstance(answered.get(timeout=240), triton.InferResult)
    for track in range(1, slots):
        send(client, 1, f"slot/{track}", end=True)


def test_the_timeout_of_a_request_bounds_the_wait_for_a_slot(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, 1, slots=2, idle=600.0)
    with EmbeddedServer(on_free_ports(repository)) as server, triton.InferenceServerClient(server.grpc_url) as client:
        fill(client)
        measurement = inputs(trapezoids()[0][0])
        with pytest.raises(InferenceServerException, match="timeout of the corresponding sequence") as refused:
            client.infer(MODEL, measurement, sequence_id="more", sequence_start=True, timeout=200_000)
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        with pytest.raises(InferenceServerException, match="must specify the START flag"):
            send(client, 1, "more")
        send(client, 1, "slot/0", end=True)
        assert send(client, 0, "more", start=True) == pytest.approx(expected(1)[0], abs=1e-6)


def test_after_a_promotion_old_sequences_are_refused_at_once_and_new_ones_start(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, 1, 2, slots=2, idle=600.0)
    with EmbeddedServer(on_free_ports(repository)) as server, triton.InferenceServerClient(server.grpc_url) as client:
        slots = fill(client)
        # This request waits for a slot. After its deadline it stays in the queue of version 1.
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            client.infer(
                MODEL, inputs(trapezoids()[0][0]), sequence_id="waits", sequence_start=True, client_timeout=0.5
            )
        live = LiveServer(f"http://{server.http_url}", MODEL)
        text = CONFIG.read_text()
        live.serve(live.config(), text, pinned(text, version=2, spec=FORMATS[Format.ONNX]))
        assert live.versions() == [1, 2]  # the queue keeps version 1, and the promotion has not waited for its end
        for track in range(slots):
            with pytest.raises(InferenceServerException, match="must specify the START flag"):
                send(client, 1, f"slot/{track}")
        for track in range(slots):
            answer = client.infer(
                MODEL, inputs(trapezoids()[0][0]), sequence_id=f"slot/{track}", sequence_start=True, client_timeout=240
            )
            assert answer.as_numpy("model_version").tolist() == [[2]]
            assert answer.as_numpy("reentry_probability")[0, 0] == pytest.approx(expected(1)[0], abs=1e-6)
