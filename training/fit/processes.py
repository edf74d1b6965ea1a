"""Training in several processes: each takes its share of every batch, and DDP averages their gradients.

The first process is the caller's own. It alone reads the file, shows progress and writes files. It starts the others
and stops them at the end.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import torch

from reentry.errors import ReentryError
from training.fit.module import TrainingTask, quiet_lightning, run_epochs
from training.fit.threads import one_thread
from training.fit.worker import Worker

_SHUTDOWN_SECONDS: Final = 30.0
_LOOPBACK: Final = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Variables that restrict the unauthenticated connections between the processes to this machine."""
_CHANGED: Final = ("RANK", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", *_LOOPBACK)
"""Variables that Lightning and this module set for torch.distributed."""


@contextmanager
def in_processes(task: TrainingTask) -> Iterator[Worker]:
    """Start the other processes of `task.config.devices`, and give the block the rank of the first.

    Raises:
        ReentryError: a process ended too early.
    """
    ranks = task.config.devices
    if ranks == 1:
        yield Worker()
        return
    pickled = pickle.dumps(task)  # the pickler of multiprocessing would share each tensor through an open file
    context = multiprocessing.get_context("spawn")
    with _restored_environment(), tempfile.TemporaryDirectory(prefix="reentry-train-") as folder:
        first = Worker(ranks=ranks, rendezvous=Path(folder, "meeting"))
        peers: list[BaseProcess] = [
            context.Process(target=_run_peer, args=(replace(first, rank=rank), pickled), daemon=True)
            for rank in range(1, ranks)
        ]
        try:
            for peer in peers:
                peer.start()
            try:
                yield first
            except RuntimeError as error:  # a broken connection, if a peer has died
                if (status := _first_failure(peers)) is None:
                    raise
                raise ReentryError(
                    f"a training process exited with status {status}",
                    fix="run `reentry train --resume` to continue after the last completed epoch",
                ) from error
            for peer in peers:
                peer.join(_SHUTDOWN_SECONDS)
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for peer in peers:
                if peer.is_alive():
                    peer.kill()
                    peer.join()


def _run_peer(worker: Worker, pickled: bytes) -> None:
    """Main function of the other processes."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal signals all processes; the first one stops the others
        signal.signal(number, signal.SIG_IGN)
    with one_thread(), quiet_lightning():
        try:
            run_epochs(pickle.loads(pickled), worker)
        except RuntimeError:
            first = multiprocessing.parent_process()
            if first is None or not first.is_alive():
                sys.exit(1)  # the connection broke because the first process was killed
            raise
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _first_failure(peers: list[BaseProcess]) -> int | None:
    """Exit status of the first process that has failed, or that fails within a second; else None."""
    for peer in peers:
        peer.join(1.0)
        if peer.exitcode:
            return peer.exitcode
    return None


@contextmanager
def _restored_environment() -> Iterator[None]:
    """Set `_LOOPBACK`, and restore all changed environment variables when the block ends."""
    before = {name: os.environ.get(name) for name in _CHANGED}
    os.environ.update(_LOOPBACK)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
