"""How the embedded server is run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Final, Literal, get_args

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.runtime.cores import cores
from reentry.serving.memory import default_memory_limit

LOOPBACK: Final = "127.0.0.1"

_MOST_THREADS: Final = 1_024
"""Instances of a network, and threads of an instance: no machine that this server knows has more cores."""

_MOST_MEGABYTES: Final = 2**24
"""MB of memory, 16 TB: the bytes of more are beyond what a limit of the system holds on some machines."""

_LONGEST_WAIT: Final = 86_400
"""s, a day."""

ModelControlMode = Literal["explicit", "none", "poll"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One embedded server."""

    model_repository: Path = Path("model_repository")
    """Folder of the models to serve; read while the server runs, never written."""
    http_port: int = 8000
    """0 takes a free one; so do the other two."""
    grpc_port: int = 8001
    metrics_port: int = 8002
    address: str = LOOPBACK
    """IPv4 address to listen on. Loopback alone, because this server is older than the security fixes of 2025 (see
    `reentry.serving`); another one only where a firewall or a network policy stands before it, as in a pod."""
    instances: int | None = None
    """Instances of each network; None: as many as the cores hold with their threads. Explicit mode only."""
    threads: int | None = None
    """Threads of each instance; None: 1. Explicit mode only."""
    model_control_mode: ModelControlMode = "explicit"
    """`explicit` loads what the repository holds now, and more when asked; `none` and `poll` are Triton's, in which the
    configuration files stand as they are."""
    log_directory: Path | None = None
    """Where server.log and predictions.jsonl go, appended to; None: the run directory, removed at the end."""
    log_to_stderr: bool = False
    """Both go to standard error instead, where a container's logs are read; there is no file that could fill a disk."""
    control_key: str = field(default="", repr=False)
    """What the server requires for loading models and other changes; empty: a random key for each run."""
    memory_limit: int | None = None
    """MB that each process of the server, its own and one for each instance of a model, may take beyond what it has
    when it is ready; None: see `reentry.serving.memory`."""
    start_timeout: float = 120.0
    """s until every model must be ready."""
    drain_timeout: float = 10.0
    """s that requests in flight get at the end, before the server is killed."""

    def __post_init__(self) -> None:
        for name, port in self.ports.items():
            if not 0 <= port <= 65535:
                raise ConfigError(f"{name} out of range", expected="0 to 65535, 0 for any free one", got=str(port))
        chosen = [port for port in self.ports.values() if port != 0]
        if len(set(chosen)) < len(chosen):
            raise ConfigError("a port is given twice", expected="three different ports", got=str(self.ports))
        try:
            IPv4Address(self.address)
        except AddressValueError as error:
            raise ConfigError(
                "address is none", expected="an IPv4 address, 0.0.0.0 for all of this machine", got=self.address
            ) from error
        if self.log_to_stderr and self.log_directory is not None:
            raise ConfigError("the logs have two places", fix="give log_directory or log_to_stderr, not both")
        for name, count, most in (
            ("instances", self.instances, _MOST_THREADS),
            ("threads", self.threads, _MOST_THREADS),
            ("memory_limit", self.memory_limit, _MOST_MEGABYTES),
        ):
            if count is not None:
                require_between(name, count, 1, most)
        if not re.fullmatch(r"[\w.~-]*", self.control_key, re.ASCII):
            raise ConfigError("control_key has other characters", expected="letters, digits and . _ ~ -")
        if self.model_control_mode not in get_args(ModelControlMode):
            raise ConfigError(
                "unknown model_control_mode",
                expected=" or ".join(get_args(ModelControlMode)),
                got=self.model_control_mode,
            )
        if self.model_control_mode != "explicit" and (self.instances or self.threads):
            raise ConfigError(
                f"instances and threads cannot be chosen in model control mode {self.model_control_mode}",
                fix="take --model-control-mode explicit, or write them into the config.pbtxt files",
            )
        for name, seconds in (("start_timeout", self.start_timeout), ("drain_timeout", self.drain_timeout)):
            require_between(name, seconds, 0.001, _LONGEST_WAIT, unit="s")

    @property
    def ports(self) -> dict[str, int]:
        """By the names of the fields."""
        return {"http_port": self.http_port, "grpc_port": self.grpc_port, "metrics_port": self.metrics_port}

    @property
    def exposed(self) -> bool:
        """Whether other machines may reach the server."""
        return not IPv4Address(self.address).is_loopback

    @property
    def own_host(self) -> str:
        """Where this machine reaches the server."""
        return LOOPBACK if IPv4Address(self.address).is_unspecified else self.address

    @property
    def fitted_memory_limit(self) -> int:
        """Bytes of `memory_limit`."""
        return default_memory_limit() if self.memory_limit is None else self.memory_limit << 20

    @property
    def fitted_threads(self) -> int:
        """Threads of each instance of a network."""
        return self.threads or 1

    @property
    def fitted_instances(self) -> int:
        """Instances of each network: with their threads they fill the cores.

        Two instances of one thread on two cores scored 1.3 to 1.4 times the tracks of one, clients on the same cores.
        """
        return self.instances or max(1, cores() // self.fitted_threads)
