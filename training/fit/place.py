"""The place of one process among those that train together, and what Lightning is told of it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

TIMEOUT: Final = timedelta(minutes=10)
"""How long a process waits for the others."""


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
