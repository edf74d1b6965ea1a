"""The compared servers: how each is installed, started and asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from perf.peers.apps.settings import CHECKPOINT, MODEL, PORT, WORKERS
from perf.peers.protocols import KServeBase64, KServeBinary, PlainJson, Protocol, RawBytes
from reentry.schema import ENSEMBLE, REENTRY_FAST, REENTRY_TRACK

ROOT: Final = Path(__file__).parents[2]
"""Root of the checkout, from which every server runs."""

TRITON_MODELS: Final = (REENTRY_TRACK, REENTRY_FAST, ENSEMBLE)
"""Models of the repository that Triton is measured with, each as a contestant of its own."""

_APPS: Final = "perf.peers.apps"
_MLSERVER_MODEL: Final = "reentry_track"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything that the start of a server depends on."""

    bin: Path
    """Folder of the programs of the server's environment."""
    port: int
    """HTTP port."""
    workers: int
    """Number of worker processes, or of instances of a model."""
    repository: Path
    """Model repository of Triton."""
    model: Path
    """The file track.onnx of the served version."""
    checkpoint: Path
    """Checkpoint that the version was exported from."""
    folder: Path
    """Empty temporary folder."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of every server."""
        return {
            "PYTHONPATH": str(ROOT),
            PORT: str(self.port),
            WORKERS: str(self.workers),
            MODEL: str(self.model.resolve()),
            CHECKPOINT: str(self.checkpoint.resolve()),
            # A thread pool for each worker process would compete for the cores.
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
            # The embedded server sets these for itself; without them glibc returns the arrays of each request to the
            # kernel and gets them back page by page.
            "MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2),
            "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One server with one protocol."""

    name: str
    """Name in the report and of the option `--only`."""
    requirements: str
    """Name of the requirements file of its environment."""
    packages: tuple[str, ...]
    """Packages whose versions the table of settings shows."""
    protocol: Protocol
    command: Callable[[Launch], list[str]]
    """Function that returns the command line of the server."""
    settings: str
    """Settings in words, for the report; `{workers}` stands for the number of workers."""
    variables: Callable[[Launch], dict[str, str]] = field(default=lambda _: {})
    """Function that returns further environment variables."""
    torch: bool = False
    """Whether its environment needs PyTorch."""


def contestants() -> list[Contestant]:
    """Return all contestants in the order in which they are measured."""
    return [
        *(
            Contestant(
                name=f"Triton, {model.name}",
                requirements="triton",
                packages=("nvidia-pytriton", "onnxruntime"),
                protocol=KServeBinary(model),
                command=_triton,
                settings="`reentry serve`, {workers} instances of each network with 1 thread",
            )
            for model in TRITON_MODELS
        ),
        Contestant(
            name="FastAPI + ONNX Runtime",
            requirements="fastapi",
            packages=("fastapi", "uvicorn", "onnxruntime"),
            protocol=RawBytes(),
            command=lambda launch: _uvicorn(launch, "fastapi_onnx"),
            settings="uvicorn with uvloop and httptools, {workers} workers, no access log",
        ),
        Contestant(
            name="FastAPI + ONNX Runtime, JSON",
            requirements="fastapi",
            packages=("fastapi", "uvicorn", "onnxruntime"),
            protocol=PlainJson(),
            command=lambda launch: _uvicorn(launch, "fastapi_onnx"),
            settings="the same server",
        ),
        Contestant(
            name="FastAPI + PyTorch",
            requirements="pytorch",
            packages=("fastapi", "uvicorn", "torch"),
            protocol=RawBytes(),
            command=lambda launch: _uvicorn(launch, "fastapi_torch"),
            settings="as FastAPI; features by numpy, the network by PyTorch in inference mode",
            torch=True,
        ),
        Contestant(
            name="LitServe",
            requirements="litserve",
            packages=("litserve", "onnxruntime"),
            protocol=RawBytes(),
            command=lambda launch: [str(launch.bin / "python"), "-m", f"{_APPS}.litserve_onnx"],
            settings="{workers} inference workers and one HTTP process, `fast_queue`, no access log",
        ),
        Contestant(
            name="BentoML",
            requirements="bentoml",
            packages=("bentoml", "onnxruntime"),
            protocol=RawBytes(),
            command=_bentoml,
            settings="{workers} workers, the body as a file, no access log",
            variables=lambda launch: {"BENTOML_HOME": str(launch.folder), "BENTOML_DO_NOT_TRACK": "True"},
        ),
        Contestant(
            name="MLServer",
            requirements="mlserver",
            packages=("mlserver", "onnxruntime"),
            protocol=KServeBase64(_MLSERVER_MODEL),
            command=lambda launch: [str(launch.bin / "mlserver"), "start", str(launch.folder)],
            settings="{workers} parallel workers and one HTTP process; its HTTP interface takes JSON only",
            variables=_mlserver_variables,
        ),
    ]


def _triton(launch: Launch) -> list[str]:
    return [
        *(str(launch.bin / "python"), "-c", "from cli import main; main()", "serve"),
        *("--repository", str(launch.repository.resolve()), "--log-dir", str(launch.folder)),
        *("--http-port", str(launch.port), "--grpc-port", "0", "--metrics-port", "0"),
        *("--instances", str(launch.workers), "--threads", "1"),
    ]


def _uvicorn(launch: Launch, app: str) -> list[str]:
    return [
        *(str(launch.bin / "python"), "-m", "uvicorn", f"{_APPS}.{app}:app"),
        *("--host", "127.0.0.1", "--port", str(launch.port), "--workers", str(launch.workers)),
        *("--no-access-log", "--log-level", "warning"),
    ]


def _bentoml(launch: Launch) -> list[str]:
    return [
        *(str(launch.bin / "bentoml"), "serve", f"{_APPS}.bentoml_onnx:TrackService"),
        *("--host", "127.0.0.1", "--port", str(launch.port), "--working-dir", str(ROOT)),
    ]


def _mlserver_variables(launch: Launch) -> dict[str, str]:
    return {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(launch.port),
        "MLSERVER_GRPC_PORT": str(launch.port + 1),
        "MLSERVER_METRICS_PORT": str(launch.port + 2),
        "MLSERVER_PARALLEL_WORKERS": str(launch.workers),
        "MLSERVER_METRICS_DIR": str(launch.folder),
        "MLSERVER_DEBUG": "false",
        "MLSERVER_MODEL_NAME": _MLSERVER_MODEL,
        "MLSERVER_MODEL_IMPLEMENTATION": f"{_APPS}.mlserver_onnx.TrackRuntime",
    }
