"""The embedded Triton server: started, waited for, stopped."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from reentry.errors import ServerError
from reentry.runtime.files import writing
from reentry.serving import http as api
from reentry.serving.config import ServerConfig
from reentry.serving.installation import Installation, find_installation, program_path, require_libraries
from reentry.serving.launch import launch
from reentry.serving.log import last_error, uncaught_exception
from reentry.serving.memory import limit_memory
from reentry.serving.repository import ensembles_of, fitted_model_config, models_of, precompile
from reentry.serving.run_directory import RunDirectory
from reentry.serving.stubs import StubWatch
from reentry.triton.prediction_log import ENVIRONMENT_VARIABLE

_POLL_SECONDS: Final = 0.02

_STUB_SECONDS: Final = 1.0
"""s between two looks at the processes of the Python models."""

_CONTROL_APIS: Final = "shared-memory,model-repository,trace,logging"
"""What changes the server for everybody; Triton's names."""

_OUT_OF_MEMORY: Final = "std::bad_alloc"
"""What C++ says when an allocation fails."""

_DEATH_SECONDS: Final = 5.0
"""s that a server which broke its connection gets to end."""


class EmbeddedServer:
    """A Triton server of this process's own, from `with` to the block's end.

    Loading of models, shared memory, tracing and logging take a control key, also on loopback, where every user of the
    machine and every web page in a browser could ask for them. Other commands of the same user find the key by
    `reentry.serving.run_directory.find_key`.

    Example:
        with EmbeddedServer(ServerConfig(http_port=0, grpc_port=0, metrics_port=0)) as server:
            score(server.grpc_url)
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._stubs: StubWatch | None = None
        self._folder: RunDirectory | None = None
        self._log_start = 0
        self.models: list[str] = []
        """Names of the models served, once started."""
        self._ensembles: dict[str, list[str]] = {}
        self._fitted: dict[str, str | None] = {}
        """In explicit mode, the configuration of each model for this machine; None where its file fits as it is."""
        self.control_key = config.control_key or secrets.token_hex(16)
        """What the server requires for changes, in the header `reentry.serving.http.CONTROL_HEADER`."""
        self.seconds_to_ready = 0.0
        """s from the start of the process until every model was ready."""

    @property
    def config(self) -> ServerConfig:
        """How it is run; once started, with the ports that it found."""
        return self._config

    @property
    def http_url(self) -> str:
        """host:port, without a scheme, as tritonclient takes it."""
        return f"{self._config.own_host}:{self._config.http_port}"

    @property
    def grpc_url(self) -> str:
        """host:port."""
        return f"{self._config.own_host}:{self._config.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus reads."""
        return f"http://{self._config.own_host}:{self._config.metrics_port}/metrics"

    @property
    def log_directory(self) -> Path:
        """The folder of server.log and predictions.jsonl, unless both go to standard error."""
        if self._config.log_directory is not None:
            return self._config.log_directory
        return self._run_directory().path

    @property
    def server_log(self) -> Path:
        """Triton's own words."""
        return self.log_directory / "server.log"

    @property
    def prediction_log(self) -> Path:
        """One JSON line for each track that was answered."""
        return self.log_directory / "predictions.jsonl"

    @property
    def log_place(self) -> str:
        """Where the user reads both, in words."""
        return "standard error" if self._config.log_to_stderr else f"{self.server_log}, {self.prediction_log}"

    @property
    def shared_memory_prefix(self) -> str:
        """Start of the names of its files in /dev/shm."""
        return self._run_directory().shared_memory_prefix

    @property
    def process_id(self) -> int:
        """Of the running server."""
        return self._running().pid

    def __enter__(self) -> Self:
        """Start, and wait until every model is ready.

        Raises:
            ServerError: a port is taken, a part of the server or a version of a model is missing, a model cannot be
                loaded, the server died or is not ready by the deadline; each with the server's own reason.
            InputError: the log directory takes no files.
        """
        self.models = models_of(self._config.model_repository)
        self._ensembles = ensembles_of(self._config.model_repository)
        installation = find_installation()
        require_libraries(installation)
        ports = choose_ports(self._config.ports, self._config.address)
        self._config = replace(
            self._config,
            http_port=ports["http_port"],
            grpc_port=ports["grpc_port"],
            metrics_port=ports["metrics_port"],
        )
        if self._config.model_control_mode == "explicit":
            repository = self._config.model_repository
            precompile(repository)
            self._fitted = {name: fitted_model_config(repository, name, self._config) for name in self.models}
        self._folder = RunDirectory()
        try:
            self._folder.write_key(self.http_url, self.control_key)
            started = time.monotonic()
            deadline = started + self._config.start_timeout
            self._start(installation)
            self._wait(api.is_live, deadline)
            if self._config.model_control_mode == "explicit":
                self._load(deadline)
            for name in self.models:  # Triton calls itself ready as soon as it has loaded what it was asked to so far
                self._wait(functools.partial(api.is_ready, model=name), deadline)
            self.seconds_to_ready = time.monotonic() - started
            self._stubs = StubWatch(self.process_id)
            limit_memory(self.process_id, self._config.fitted_memory_limit)
            if not self._config.log_to_stderr:
                self._log_start = self.server_log.stat().st_size  # what it got over is no reason of a later end
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self) -> None:
        """Block until the server ends by itself, or loses a process that it does not start anew.

        Raises:
            ServerError: always, for it was not asked to; why, in its own words.
        """
        process = self._running()
        while process.poll() is None:
            lost = self._stubs.look() if self._stubs else None
            if lost is not None:
                raise ServerError(
                    f"a process of {lost} was killed, and Triton does not start another",
                    fix="start the server again; with fewer --instances where the memory ran out",
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STUB_SECONDS)
        raise self._death()

    def stop(self) -> None:
        """Let the requests in flight finish, within `drain_timeout`, and end the server and all its processes.

        A server that was never ready has none, and a Triton that is told to end while it loads waits for nothing.
        """
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None and self.seconds_to_ready > 0:
                if self._config.model_control_mode == "explicit":
                    self._drain_ensembles()
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    # Triton keeps the deadline itself; what it needs beyond is for its stubs to end.
                    process.wait(self._config.drain_timeout + 5.0)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # stubs outlive a server that was killed
            process.wait()
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _start(self, installation: Installation) -> None:
        config, folder = self._config, self._run_directory()
        backends = folder.assemble_backends(installation)
        command = [
            str(installation.binary),
            f"--model-repository={config.model_repository.resolve()}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self.shared_memory_prefix}",
            f"--model-control-mode={config.model_control_mode}",
            f"--http-address={config.address}",
            f"--http-port={config.http_port}",
            f"--grpc-address={config.address}",
            f"--grpc-port={config.grpc_port}",
            f"--metrics-address={config.address}",
            f"--metrics-port={config.metrics_port}",
            "--allow-gpu-metrics=false",
            "--disable-auto-complete-config",  # the files are complete; it would start every Python model twice
            f"--exit-timeout-secs={round(config.drain_timeout)}",
        ]
        if self._is_loaded_at_start:
            # A model that fails does not end the server: asked for again, it tells the reason.
            command += ["--exit-on-error=false", *(f"--load-model={name}" for name in self.models)]
        restriction = f"{_CONTROL_APIS}:{api.CONTROL_HEADER}={self.control_key}"
        hidden = {}
        for flag in ("--http-restricted-api", "--grpc-restricted-protocol"):
            hidden[len(command)] = f"{flag}={restriction}"
            command.append(f"{flag}=hidden")
        environment = os.environ | {
            "LD_LIBRARY_PATH": installation.library_path,
            "PATH": program_path(),
            # glibc would hand the arrays of each request back to the kernel, and fetch them again page by page.
            "MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2),
            "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),
        }
        with contextlib.ExitStack() as until_started:
            log = 2  # standard error, where the prediction log goes too unless the environment names a file
            if not config.log_to_stderr:
                with writing(self.server_log):
                    self.log_directory.mkdir(parents=True, exist_ok=True)
                    file = until_started.enter_context(self.server_log.open("ab"))
                environment[ENVIRONMENT_VARIABLE] = str(self.prediction_log.resolve())
                self._log_start, log = file.tell(), file.fileno()
            # A group of its own: the terminal's Ctrl-C reaches us alone, and we let the server drain.
            self._process = launch(
                command,
                hidden,
                environment=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[folder.lock],
            )

    def _wait(self, answers: Callable[[str], bool], deadline: float) -> None:
        while not answers(self.http_url):
            if self._running().poll() is not None:
                raise self._death()
            if time.monotonic() > deadline:
                raise self._too_late()
            time.sleep(_POLL_SECONDS)

    def _load(self, deadline: float) -> None:
        members = {member for ensemble in self._ensembles.values() for member in ensemble}
        # Members first, as fitted: whoever sees an ensemble ready sees the whole server ready, and nothing is loaded
        # again under its requests.
        for name in sorted(self.models, key=lambda name: name not in members):
            if not (self._is_loaded_at_start and api.is_ready(self.http_url, name)):
                self._request_load(name, self._fitted[name], deadline)

    def _drain_ensembles(self) -> None:
        """Close the ensembles to new requests and let those inside finish.

        When Triton ends it refuses the later steps of an ensemble's requests, so these must be through before.
        """
        deadline = time.monotonic() + self._config.drain_timeout
        with contextlib.suppress(OSError, http.client.HTTPException):  # it died meanwhile: nothing to wait for
            for name in self._ensembles:
                api.unload_model(self.http_url, name, key=self.control_key)
            while time.monotonic() < deadline and (
                api.loaded_models(self.http_url, key=self.control_key) & self._ensembles.keys()
            ):
                time.sleep(_POLL_SECONDS)

    def _request_load(self, name: str, config: str | None, deadline: float) -> None:
        try:
            api.load_model(
                self.http_url,
                name,
                config,
                key=self.control_key,
                timeout=max(deadline - time.monotonic(), _POLL_SECONDS),
            )
        except TimeoutError:
            raise self._too_late() from None
        except (OSError, http.client.HTTPException):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running().wait(_DEATH_SECONDS)
            raise self._death() from None

    @property
    def _is_loaded_at_start(self) -> bool:
        """Whether Triton loads the models before it listens, so that no request meets a server without them.

        It does so with the configurations of the files alone. Others have to be loaded by request, after it listens.
        """
        return bool(self._fitted) and all(config is None for config in self._fitted.values())

    def _run_directory(self) -> RunDirectory:
        if self._folder is None:
            raise ServerError("the server is not running")
        return self._folder

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process

    def _death(self) -> ServerError:
        status = self._running().poll()
        if status is None:
            return ServerError("the Triton server no longer answers")
        if status >= 0:
            reason = self._last_error()
            return ServerError(f"the Triton server ended with status {status}" + (f": {reason}" if reason else ""))
        # The errors in its log did not stop it; an exception that nobody caught did.
        reason = None if self._config.log_to_stderr else uncaught_exception(self.server_log, self._log_start)
        return ServerError(
            f"the Triton server was ended by {signal.Signals(-status).name}" + (f": {reason}" if reason else ""),
            fix="see who sends such requests; --memory-limit allows larger ones" if reason == _OUT_OF_MEMORY else None,
        )

    def _too_late(self) -> ServerError:
        reason = self._last_error()
        return ServerError(
            f"the Triton server was not ready within start_timeout, {self._config.start_timeout:g} s"
            + (f"; its last error: {reason}" if reason else "")
        )

    def _last_error(self) -> str | None:
        """The server's own reason; None if it gave none, or has just told it on standard error."""
        return None if self._config.log_to_stderr else last_error(self.server_log, self._log_start)


def choose_ports(ports: dict[str, int], address: str) -> dict[str, int]:
    """Find a free port of `address` for each 0, and see that the others are free.

    Raises:
        ServerError: a port is taken.
    """
    with contextlib.ExitStack() as held:
        chosen = {}
        for name, port in sorted(ports.items(), key=lambda item: item[1] == 0):  # the given ones first
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an ended server linger
            try:
                probe.bind((address, port))
            except OSError as error:
                raise ServerError(
                    f"{name.replace('_', ' ')} {port} cannot be used: {error.strerror}",
                    fix=f"end what listens there, or choose another with --{name.replace('_', '-')}",
                ) from None
            chosen[name] = probe.getsockname()[1]
        return chosen
