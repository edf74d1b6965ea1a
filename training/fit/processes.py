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
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from reentry.errors import ReentryError

if TYPE_CHECKING:
    from training.fit.module import Work

TIMEOUT: Final = timedelta(minutes=10)
"""How long a process waits for the others."""

_ENDING_SECONDS: Final = 30.0
_LOOPBACK: Final = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Variables that keep the connections between the processes on this machine: nobody has to prove who he is on them."""
_CHANGED: Final = ("RANK", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", *_LOOPBACK)
"""Variables that Lightning and this module set for torch.distributed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Of a process among those that train."""

    rank: int = 0
    ranks: int = 1
    meeting: Path | None = None
    """File in which the processes find each other; None for a single one."""

    def mean(self, value: Tensor) -> Tensor:
        """Over the processes; each has to ask for it."""
        if self.ranks == 1:
            return value
        value = value.detach().clone()
        torch.distributed.all_reduce(value)
        return value / self.ranks

    def trainer_settings(self) -> dict[str, Any]:
        """What Lightning's trainer is told of it."""
        if self.ranks == 1:
            return {"devices": 1}
        return {"devices": self.ranks, "strategy": _MeetInFile(self)}

    def callbacks(self) -> list[Callback]:
        """What Lightning's trainer needs more."""
        return [_OwnSignals()] if self.ranks > 1 else []


class _MeetInFile(DDPStrategy):
    """DDP whose processes find each other in a file, which only this user can open.

    The default is a port on all interfaces that takes anybody's requests.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(cluster_environment=_Started(place), timeout=TIMEOUT)
        self._place = place

    def setup_distributed(self) -> None:
        place, device = self._place, self.root_device
        torch.distributed.init_process_group(
            self._get_process_group_backend(),
            init_method=f"file://{place.meeting}",
            rank=place.rank,
            world_size=place.ranks,
            timeout=TIMEOUT,
            device_id=device if device.type != "cpu" else None,
        )
        super().setup_distributed()  # takes the group that is there


class _Started(LightningEnvironment):
    """Tells Lightning that the processes are there already."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self._place.rank

    def node_rank(self) -> int:
        return 0


class _OwnSignals(Callback):
    """Takes back SIGTERM, of which Lightning would tell the other processes while they wait for something else."""

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        signal.signal(signal.SIGTERM, self._handler)


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
    from training.fit.module import quiet_lightning, run_epochs
    from training.fit.threads import one_thread

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
