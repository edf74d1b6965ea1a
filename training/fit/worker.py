"""One of the processes that train together, and the Lightning settings that connect it to the others."""

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
class Worker:
    """Rank of one training process, and how it finds the others."""

    rank: int = 0
    ranks: int = 1
    """Number of processes."""
    rendezvous: Path | None = None
    """File through which the processes find each other; None for a single process."""

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes; every process must call this."""
        if self.ranks == 1:
            return value
        value = value.detach().clone()
        torch.distributed.all_reduce(value)
        return value / self.ranks

    def trainer_settings(self) -> dict[str, Any]:
        """Arguments for Lightning's `Trainer`."""
        if self.ranks == 1:
            return {"devices": 1}
        return {"devices": self.ranks, "strategy": _FileDDPStrategy(self)}

    def callbacks(self) -> list[Callback]:
        """Callbacks for Lightning's `Trainer`."""
        return [_KeepSigtermHandler()] if self.ranks > 1 else []


class _FileDDPStrategy(DDPStrategy):
    """DDP whose processes find each other through a file that only this user can open.

    The default is a port on all interfaces, which accepts connections from anyone.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(cluster_environment=_StartedProcesses(worker), timeout=TIMEOUT)
        self._worker = worker

    def setup_distributed(self) -> None:
        worker, device = self._worker, self.root_device
        torch.distributed.init_process_group(
            self._get_process_group_backend(),
            init_method=f"file://{worker.rendezvous}",
            rank=worker.rank,
            world_size=worker.ranks,
            timeout=TIMEOUT,
            device_id=device if device.type != "cpu" else None,
        )
        super().setup_distributed()  # uses the existing process group


class _StartedProcesses(LightningEnvironment):
    """Environment in which the processes are already running, so that Lightning starts none."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self._worker.rank

    def node_rank(self) -> int:
        return 0


class _KeepSigtermHandler(Callback):
    """Restores the SIGTERM handler that Lightning replaces.

    Lightning's handler broadcasts the signal to the other processes while they wait for another collective operation.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        signal.signal(signal.SIGTERM, self._handler)
