"""Number of threads that PyTorch uses, and the kind of processor that it runs on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

THREADS: Final = 1
"""Number of threads of a training process. The order of floating-point sums depends on it."""
_CPU_INFO: Final = Path("/proc/cpuinfo")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread in the block: operations this small are slower on more, especially on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def processor() -> str:
    """Return the kind of processor, as far as it decides how PyTorch computes: architecture, vector units, model."""
    lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines() if _CPU_INFO.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return ", ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *models[:1]])


def device(accelerator: str) -> str:
    """Return the device that a setting of `TrainConfig.accelerator` stands for on this machine: cpu or gpu."""
    return "gpu" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
