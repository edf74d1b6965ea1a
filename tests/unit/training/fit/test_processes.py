"""Training in two processes that share each batch gives the network that one process gives."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
import torch

from reentry.errors import ConfigError, ReentryError
from tests.training_data import short_samples, write_flights
from training.config import ModelConfig, TrainConfig
from training.data.stored import open_labelled
from training.data.training_data import LabelledTracks
from training.fit.fit import Trained, fit

SHAPE = ModelConfig(hidden=8)
ONE = TrainConfig(epochs=3, accelerator="cpu", alarm_weight=0.1)
TWO = replace(ONE, devices=2)


def listened_on(*processes: int) -> set[str]:
    """IP addresses on which the processes listen."""
    sockets = set()
    for process in processes:
        for handle in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):  # the descriptor was closed in the meantime
                sockets.add(handle.readlink().name)
    found = set()
    for table, words in (("tcp", 1), ("tcp6", 4)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                address = bytes.fromhex(local.partition(":")[0])  # as words in the byte order of this machine
                order = "<" if sys.byteorder == "little" else ">"
                packed = struct.pack(f">{words}I", *struct.unpack(f"{order}{words}I", address))
                found.add(str(ip_address(packed)))
    return found


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelledTracks]:
    """Samples that the processes read from files."""
    flights = write_flights(tmp_path_factory.mktemp("flights") / "flights.parquet", tracks=20)
    with open_labelled(flights, in_memory_bytes=0) as data:
        yield data


@pytest.fixture(scope="module")
def two(stored: LabelledTracks) -> tuple[Trained, set[str]]:
    """Result of a training in two processes, and the IP addresses on which they listened."""
    listening = set()

    def check_processes(epoch: int, figures: dict[str, float]) -> None:
        processes = [os.getpid(), *(peer.pid for peer in multiprocessing.active_children() if peer.pid)]
        assert len(processes) == 2
        listening.update(listened_on(*processes))

    result = fit(stored.samples, SHAPE, TWO, fingerprint="x", show_progress=False, on_epoch=check_processes)
    assert multiprocessing.active_children() == []
    assert not torch.distributed.is_initialized()
    assert not {"WORLD_SIZE", "GLOO_SOCKET_IFNAME", "MASTER_PORT"} & os.environ.keys()
    return result, listening


def test_two_processes_give_the_weights_of_one_within_rounding_and_listen_only_on_loopback(
    stored: LabelledTracks, two: tuple[Trained, set[str]]
) -> None:
    result, listening = two
    assert listening == {"127.0.0.1"}
    one = fit(stored.samples, SHAPE, ONE, fingerprint="x", show_progress=False)
    for epoch, other in zip(one.history, result.history, strict=True):
        assert other == pytest.approx(epoch, rel=1e-4)
    for name, weight in one.checkpoint.model.state_dict().items():
        torch.testing.assert_close(result.checkpoint.model.state_dict()[name], weight, rtol=1e-3, atol=1e-4)


def test_an_interrupted_run_stops_both_processes_and_resumes_to_the_same_result(
    stored: LabelledTracks, two: tuple[Trained, set[str]], tmp_path: Path
) -> None:
    whole, samples = two[0], stored.samples

    def interrupt(epoch: int, figures: dict[str, float]) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(samples, SHAPE, TWO, fingerprint="x", show_progress=False, unfinished=tmp_path / "run", on_epoch=interrupt)
    assert multiprocessing.active_children() == []
    again = fit(samples, SHAPE, TWO, fingerprint="x", show_progress=False, unfinished=tmp_path / "run", resume=True)
    assert again.history == whole.history


def test_a_process_that_dies_stops_the_training_with_its_status(tmp_path: Path) -> None:
    def kill(epoch: int, figures: dict[str, float]) -> None:
        (peer,) = multiprocessing.active_children()
        peer.kill()

    with pytest.raises(ReentryError, match="exited with status -9") as error:
        fit(short_samples(tmp_path), SHAPE, TWO, fingerprint="x", show_progress=False, on_epoch=kill)
    assert "--resume" in str(error.value.fix)
    assert multiprocessing.active_children() == []


def test_more_devices_than_training_tracks_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fewer tracks than devices") as error:
        fit(short_samples(tmp_path, tracks=3), SHAPE, replace(ONE, devices=3), fingerprint="x")
    assert (error.value.expected, error.value.got) == ("at most 2 devices", "3")
