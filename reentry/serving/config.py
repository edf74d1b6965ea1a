"""Configuration of the embedded server."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Final, Literal, get_args

from reentry.errors import ConfigError, ServerError
from reentry.runtime.arguments import require_between
from reentry.runtime.cores import cores
from reentry.serving.memory import default_memory_limit

LOOPBACK: Final = "127.0.0.1"

_MOST_THREADS: Final = 1_024
"""Largest number of instances of a network, and of threads of an instance."""
_MOST_MEGABYTES: Final = 2**24
"""Largest memory limit in MB, 16 TB. More bytes overflow a resource limit on some machines."""
_LONGEST_WAIT: Final = 86_400
"""Largest timeout in seconds, one day."""

ModelControlMode = Literal["explicit", "none", "poll"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Configuration of one embedded server."""

    model_repository: Path = Path("model_repository")
    """Folder of the models to serve. It is read while the server runs."""
    http_port: int = 8000
    """HTTP port. For each of the three ports, 0 chooses a free one."""
    grpc_port: int = 8001
    """gRPC port."""
    metrics_port: int = 8002
    """Port of the Prometheus metrics."""
    address: str = LOOPBACK
    """IPv4 address to listen on. The default is loopback, because this server is older than the security fixes of 2025
    (see `reentry.serving`). Use another address only behind a firewall or a network policy, as in a pod."""
    instances: int | None = None
    """Instances of each network; None for as many as the cores hold. Explicit mode only."""
    threads: int | None = None
    """Threads of each instance; None for 1. Explicit mode only."""
    tuned: Path | None = None
    """File of `reentry.serving.tuned` whose settings replace those of the configuration files, and the fitted counts of
    instances and threads. Explicit mode only."""
    model_control_mode: ModelControlMode = "explicit"
    """`explicit` loads the models of the repository at the start and others on request. `none` and `poll` are Triton's
    own modes, which use the configuration files unchanged."""
    log_directory: Path | None = None
    """Folder to which server.log and predictions.jsonl are appended; None for the run directory, which is temporary."""
    log_to_stderr: bool = False
    """Whether both logs go to standard error, as in a container, instead of files that could fill a disk."""
    control_key: str = field(default="", repr=False)
    """Key that the server requires for model loading and other changes; empty for a random key."""
    open_shared_memory: bool = False
    """Whether every client may register shared memory without the control key. Only for measurements on loopback:
    perf_analyzer cannot send the key with these requests."""
    memory_limit: int | None = None
    """MB that each process of the server may allocate beyond what it has when it is ready; None for the default of
    `reentry.serving.memory`. The processes are the server and each instance of a model."""
    otlp_endpoint: str = ""
    """Address of an OpenTelemetry collector, such as http://HOST:4318, that gets the traces of the requests with a
    `traceparent`; empty for no traces."""
    start_timeout: float = 120.0
    """Seconds within which every model must be ready."""
    drain_timeout: float = 10.0
    """Seconds that requests in flight get at shutdown, before the server is killed."""

    def __post_init__(self) -> None:
        for name, port in self.ports.items():
            if not 0 <= port <= 65535:
                raise ConfigError(f"{name} out of range", expected="0 to 65535, 0 for any free one", got=str(port))
        chosen = [port for port in self.ports.values() if port != 0]
        if len(set(chosen)) < len(chosen):
            raise ConfigError("duplicate port", expected="three different ports", got=str(self.ports))
        try:
            IPv4Address(self.address)
        except AddressValueError as error:
            raise ConfigError(
                "invalid address", expected="an IPv4 address, or 0.0.0.0 for all interfaces", got=self.address
            ) from error
        if self.log_to_stderr and self.log_directory is not None:
            raise ConfigError("two log destinations", fix="set log_directory or log_to_stderr, not both")
        for name, count, most in (
            ("instances", self.instances, _MOST_THREADS),
            ("threads", self.threads, _MOST_THREADS),
            ("memory_limit", self.memory_limit, _MOST_MEGABYTES),
        ):
            if count is not None:
                require_between(name, count, 1, most)
        if not re.fullmatch(r"[\w.~-]*", self.control_key, re.ASCII):
            raise ConfigError("invalid character in control_key", expected="letters, digits and . _ ~ -")
        if self.otlp_endpoint and not re.fullmatch(r"https?://[^\s,/?#]+/?", self.otlp_endpoint):
            raise ConfigError(
                "invalid otlp_endpoint",
                expected="http://HOST:PORT of a collector, without a path",
                got=self.otlp_endpoint,
            )
        if self.open_shared_memory and self.address != LOOPBACK:
            raise ConfigError(
                "open_shared_memory lets every client map the server's memory", expected=LOOPBACK, got=self.address
            )
        if self.model_control_mode not in get_args(ModelControlMode):
            raise ConfigError(
                "unknown model_control_mode",
                expected=" or ".join(get_args(ModelControlMode)),
                got=self.model_control_mode,
            )
        if self.model_control_mode != "explicit" and (self.instances or self.threads or self.tuned):
            raise ConfigError(
                f"instances and threads cannot be chosen in model control mode {self.model_control_mode}",
                fix="use --model-control-mode explicit, or write them into the config.pbtxt files",
            )
        if self.tuned and (self.instances or self.threads):
            raise ConfigError(
                "instances and threads are chosen twice", fix="give either tuned, or instances and threads"
            )
        for name, seconds in (("start_timeout", self.start_timeout), ("drain_timeout", self.drain_timeout)):
            require_between(name, seconds, 0.001, _LONGEST_WAIT, unit="s")

    @property
    def ports(self) -> dict[str, int]:
        """Ports by field name."""
        return {"http_port": self.http_port, "grpc_port": self.grpc_port, "metrics_port": self.metrics_port}

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach the server."""
        return not IPv4Address(self.address).is_loopback

    @property
    def own_host(self) -> str:
        """Host name under which this machine reaches the server."""
        return LOOPBACK if IPv4Address(self.address).is_unspecified else self.address

    @property
    def fitted_memory_limit(self) -> int:
        """Memory limit of each process in bytes."""
        return default_memory_limit() if self.memory_limit is None else self.memory_limit << 20

    @property
    def fitted_threads(self) -> int:
        """Threads of each instance of a network."""
        return self.threads or 1

    @property
    def fitted_instances(self) -> int:
        """Number of instances of each network, whose threads together fill the cores.

        On two cores, two instances with one thread each scored 1.3 to 1.4 times as many tracks as one instance, with
        the clients on the same cores.
        """
        return self.instances or max(1, cores() // self.fitted_threads)


@contextlib.contextmanager
def held_ports(config: ServerConfig) -> Iterator[ServerConfig]:
    """Yield the configuration with a free port of its address in place of each port 0.

    During the block no other program is given one of the ports. Triton listens on them, because it sets SO_REUSEADDR.

    Raises:
        ServerError: one of the other ports is in use.
    """
    with contextlib.ExitStack() as held:
        chosen = {}
        for name, port in sorted(config.ports.items(), key=lambda item: item[1] == 0):  # the fixed ones first
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an ended server linger
            try:
                probe.bind((config.address, port))
            except OSError as error:
                raise ServerError(
                    f"{name.replace('_', ' ')} {port} cannot be used: {error.strerror}",
                    fix=f"stop the program that listens there, or choose another with --{name.replace('_', '-')}",
                ) from None
            chosen[name] = probe.getsockname()[1]
        yield replace(config, **chosen)
