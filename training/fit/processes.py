"""Training in several processes: each takes its share of every batch, and DDP averages their gradients.

The first process is the caller's own. It starts the others, so that it alone reads the file, shows progress and writes,
and ends them when it ends.
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
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import torch

from reentry.errors import ReentryError
from training.fit.module import Work, quiet_lightning, run_epochs
from training.fit.place import Place
from training.fit.threads import one_thread

_ENDING_SECONDS: Final = 30.0
_LOOPBACK: Final = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Variables that keep the connections between the processes on this machine: nobody has to prove who he is on them."""
_CHANGED: Final = ("RANK", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", *_LOOPBACK)
"""Variables that Lightning and this module set for torch.distributed."""


@contextmanager
def in_processes(work: Work) -> Iterator[Place]:
    """Start the other processes of `work.config.devices`; the block trains in the first.

    Raises:
        ReentryError: one of them ended before its time.
    """
    ranks = work.config.devices
    if ranks == 1:
        yield Place()
        return
    given = pickle.dumps(work)  # as bytes: a pickle of its own would share each tensor through an open file
    context = multiprocessing.get_context("spawn")
    with _own_variables(), tempfile.TemporaryDirectory(prefix="reentry-train-") as folder:
        place = Place(ranks=ranks, meeting=Path(folder, "meeting"))
        peers: list[BaseProcess] = [
            context.Process(target=_train_as, args=(rank, place, given), daemon=True) for rank in range(1, ranks)
        ]
        try:
            for peer in peers:
                peer.start()
            try:
                yield place
            except RuntimeError as error:  # of a connection that broke, where one has died
                if (died := _first_dead(peers)) is None:
                    raise
                raise ReentryError(
                    f"a process of the training ended with status {died}",
                    fix="reentry train --resume goes on after the last epoch",
                ) from error
            for peer in peers:
                peer.join(_ENDING_SECONDS)
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for peer in peers:
                if peer.is_alive():
                    peer.kill()
                    peer.join()


def _train_as(rank: int, place: Place, given: bytes) -> None:
    """The whole of another process."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's go to all; the first process ends the others
        signal.signal(number, signal.SIG_IGN)
    with one_thread(), quiet_lightning():
        try:
            run_epochs(pickle.loads(given), Place(rank=rank, ranks=place.ranks, meeting=place.meeting))
        except RuntimeError:
            first = multiprocessing.parent_process()
            if first is None or not first.is_alive():
                sys.exit(1)  # the connection broke, since the first process was killed
            raise
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _first_dead(peers: list[BaseProcess]) -> int | None:
    """Status of a process that has ended in error, or that does so within a moment."""
    for peer in peers:
        peer.join(1.0)
        if peer.exitcode:
            return peer.exitcode
    return None


@contextmanager
def _own_variables() -> Iterator[None]:
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
