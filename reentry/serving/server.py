"""Start and shutdown of an embedded Triton server."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from reentry.errors import ServerError
from reentry.runtime.files import writing
from reentry.serving import http as api
from reentry.serving.config import ServerConfig, held_ports
from reentry.serving.installation import Installation, find_installation, program_path, require_libraries
from reentry.serving.launch import launch
from reentry.serving.log import last_error, uncaught_exception
from reentry.serving.memory import limit_memory
from reentry.serving.repository import (
    ensembles_of,
    fitted_model_config,
    models_of,
    precompile,
    require_derived_versions,
    sequence_models_of,
    tuned_settings,
)
from reentry.serving.run_directory import RunDirectory
from reentry.serving.stubs import StubWatch
from reentry.triton.prediction_log import ENVIRONMENT_VARIABLE

_POLL_SECONDS: Final = 0.02
_STUB_SECONDS: Final = 1.0
"""Seconds between two checks of the Python models' processes."""
_EXIT_SECONDS: Final = 5.0
"""Seconds to wait for the exit of a server that has closed its connection."""
_CONTROL_APIS: Final = "shared-memory,model-repository,trace,logging"
"""Triton's names of the interfaces that change the server for all its clients."""
_OUT_OF_MEMORY: Final = "std::bad_alloc"
"""The C++ exception for a failed allocation."""


class EmbeddedServer:
    """A Triton server that runs as a child process for the duration of a `with` block.

    Model loading, shared memory, tracing and logging require a control key. They do so on loopback too, because every
    user of the machine, and every web page in a browser, can send requests there. Other commands of the same user find
    the key with `reentry.serving.run_directory.find_key`.

    Example:
        with EmbeddedServer(ServerConfig(http_port=0, grpc_port=0, metrics_port=0)) as server:
            score(server.grpc_url)
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        """Configuration of the server. After the start it holds the ports that were chosen."""
        self._process: subprocess.Popen[bytes] | None = None
        self._stub_watch: StubWatch | None = None
        self._run_directory: RunDirectory | None = None
        self._log_start = 0
        self.models: list[str] = []
        """Names of the served models, filled at the start."""
        self._ensembles: dict[str, list[str]] = {}
        self._sequence_models: list[str] = []
        self._fitted: dict[str, str | None] = {}
        """Configuration of each model for this machine in explicit mode; None if its file needs no change."""
        self.control_key = config.control_key or secrets.token_hex(16)
        """Key that changes of the server require in the header `reentry.serving.http.CONTROL_HEADER`."""
        self.seconds_to_ready = 0.0
        """Seconds from the start of the process until every model was ready."""

    @property
    def http_url(self) -> str:
        """Address for HTTP as host:port without a scheme, the form that tritonclient expects."""
        return f"{self.config.own_host}:{self.config.http_port}"

    @property
    def grpc_url(self) -> str:
        """Address for gRPC as host:port."""
        return f"{self.config.own_host}:{self.config.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """URL of the Prometheus metrics."""
        return f"http://{self.config.own_host}:{self.config.metrics_port}/metrics"

    @property
    def log_directory(self) -> Path:
        """Folder of server.log and predictions.jsonl, unless both logs go to standard error."""
        return self.config.log_directory or self._running_directory().path

    @property
    def server_log(self) -> Path:
        """File of Triton's own log."""
        return self.log_directory / "server.log"

    @property
    def prediction_log(self) -> Path:
        """File with one JSON line for each scored track."""
        return self.log_directory / "predictions.jsonl"

    @property
    def log_place(self) -> str:
        """Description of where both logs are written, for the user."""
        return "standard error" if self.config.log_to_stderr else f"{self.server_log}, {self.prediction_log}"

    @property
    def shared_memory_prefix(self) -> str:
        """Prefix of the names of the server's files in /dev/shm."""
        return self._running_directory().shared_memory_prefix

    @property
    def process_id(self) -> int:
        """Process id of the running server."""
        return self._running_process().pid

    @property
    def ended(self) -> bool:
        """Whether the server has exited by itself; `wait` then raises the reason."""
        return self._running_process().poll() is not None

    def __enter__(self) -> Self:
        """Start the server and wait until every model is ready.

        Raises:
            ServerError: a port is in use, a part of the server or a version of a model is missing, a model cannot be
                loaded, or the server exited or missed the deadline. The error includes the server's own reason.
            ConfigError: the tuned settings are invalid or do not suit the models.
            InputError: the log directory is not writable.
        """
        self.models = models_of(self.config.model_repository)
        if self.config.model_control_mode != "explicit":
            require_derived_versions(self.config.model_repository)
        self._ensembles = ensembles_of(self.config.model_repository)
        self._sequence_models = sequence_models_of(self.config.model_repository)
        installation = find_installation()
        require_libraries(installation)
        with held_ports(self.config) as self.config:
            if self.config.model_control_mode == "explicit":
                repository = self.config.model_repository
                tuned = tuned_settings(repository, self.models, self.config)
                precompile(repository)
                self._fitted = {
                    name: fitted_model_config(repository, name, self.config, tuned.get(name)) for name in self.models
                }
            self._run_directory = RunDirectory()
            try:
                self._run_directory.write_key(self.http_url, self.control_key)
                started = time.monotonic()
                deadline = started + self.config.start_timeout
                self._start(installation)
                self._wait(api.is_live, deadline)
                if self.config.model_control_mode == "explicit":
                    self._load(deadline)
                # Triton reports itself ready once it has loaded only the models requested so far.
                for name in self.models:
                    self._wait(functools.partial(api.is_ready, model=name), deadline)
                self.seconds_to_ready = time.monotonic() - started
                self._stub_watch = StubWatch(self.process_id)
                limit_memory(self.process_id, self.config.fitted_memory_limit)
                if not self.config.log_to_stderr:
                    self._log_start = self.server_log.stat().st_size  # errors of the start do not explain a later exit
            except BaseException:
                self.stop()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self) -> None:
        """Block until the server exits by itself, or loses a process that it does not restart.

        Raises:
            ServerError: always, since the exit is unexpected. The error includes the server's own reason.
        """
        process = self._running_process()
        while process.poll() is None:
            lost = self._stub_watch.lost_model() if self._stub_watch else None
            if lost is not None:
                raise ServerError(
                    f"a process of {lost} was killed, and Triton does not start another",
                    fix="restart the server, with fewer --instances if it ran out of memory",
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STUB_SECONDS)
        raise self._exit_error()

    def stop(self) -> None:
        """Shut down the server and all its processes after requests in flight have finished, within `drain_timeout`.

        A server that was never ready is killed at once: it has no requests in flight.
        """
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None and self.seconds_to_ready > 0:
                if self.config.model_control_mode == "explicit":
                    self._drain()
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    # Triton keeps to the deadline itself and then needs a moment to stop its stubs.
                    process.wait(self.config.drain_timeout + 5.0)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # stubs outlive a killed server
            process.wait()
        if self._run_directory is not None:
            self._run_directory.remove()
            self._run_directory = None

    def _start(self, installation: Installation) -> None:
        config, run_directory = self.config, self._running_directory()
        backends = run_directory.assemble_backends(installation)
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
            "--disable-auto-complete-config",  # the files are complete, and it would start every Python model twice
            f"--exit-timeout-secs={round(config.drain_timeout)}",
        ]
        if self._fitted and not any(self._fitted.values()):
            # Triton loads models before it listens, so no request meets a server without them. It reads only the
            # files, so a fitted configuration has to be loaded by request. A model that fails must not end the server:
            # the load request that follows returns the reason.
            command += ["--exit-on-error=false", *(f"--load-model={name}" for name in self.models)]
        if config.otlp_endpoint:
            command += [
                "--trace-config=mode=opentelemetry",
                "--trace-config=level=TIMESTAMPS",
                "--trace-config=rate=0",  # no other requests than those with a `traceparent`
                f"--trace-config=opentelemetry,url={config.otlp_endpoint.rstrip('/')}/v1/traces",
            ]
        restricted = _CONTROL_APIS.removeprefix("shared-memory,") if config.open_shared_memory else _CONTROL_APIS
        restriction = f"{restricted}:{api.CONTROL_HEADER}={self.control_key}"
        hidden = {}
        for flag in ("--http-restricted-api", "--grpc-restricted-protocol"):
            hidden[len(command)] = f"{flag}={restriction}"
            command.append(f"{flag}=hidden")
        environment = os.environ | {
            "LD_LIBRARY_PATH": installation.library_path,
            "PATH": program_path(),
            # With its defaults glibc returns the arrays of each request to the kernel and gets them back page by page.
            "MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2),
            "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),
        }
        with contextlib.ExitStack() as until_started:
            log = 2  # standard error, also the default of the prediction log
            if not config.log_to_stderr:
                with writing(self.server_log):
                    self.log_directory.mkdir(parents=True, exist_ok=True)
                    file = until_started.enter_context(self.server_log.open("ab"))
                # A model that cannot open its prediction log fails without a clear error.
                with writing(self.prediction_log):
                    self.prediction_log.touch()
                environment[ENVIRONMENT_VARIABLE] = str(self.prediction_log.absolute())
                self._log_start, log = file.tell(), file.fileno()
            # In its own process group the server does not receive the terminal's Ctrl-C, so it can be drained first.
            self._process = launch(
                command,
                hidden,
                environment=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[run_directory.lock],
            )

    def _wait(self, holds: Callable[[str], bool], deadline: float) -> None:
        while not holds(self.http_url):
            if self._running_process().poll() is not None:
                raise self._exit_error()
            if time.monotonic() > deadline:
                raise self._timeout_error()
            time.sleep(_POLL_SECONDS)

    def _load(self, deadline: float) -> None:
        members = {member for ensemble in self._ensembles.values() for member in ensemble}
        # Members are loaded before their ensemble. A client that finds the ensemble ready then finds the whole server
        # ready, and no model is reloaded during its requests.
        for name in sorted(self.models, key=lambda name: name not in members):
            fitted = self._fitted[name]
            if fitted is not None or not api.is_ready(self.http_url, name):
                self._request_load(name, fitted, deadline)

    def _drain(self) -> None:
        """Close the models with sequences and the ensembles to new requests, and wait for the ensembles' requests.

        A Triton server that shuts down refuses the later steps of an ensemble's requests, so they must finish before.
        It would also wait all of `drain_timeout` for open sequences to end. So their clients learn at once that the
        model is unavailable, and continue on another server.
        """
        deadline = time.monotonic() + self.config.drain_timeout
        with contextlib.suppress(OSError, http.client.HTTPException):  # the server has exited already
            for name in (*self._sequence_models, *self._ensembles):
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
            raise self._timeout_error() from None
        except (OSError, http.client.HTTPException):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running_process().wait(_EXIT_SECONDS)
            raise self._exit_error() from None

    def _running_directory(self) -> RunDirectory:
        if self._run_directory is None:
            raise ServerError("the server is not running")
        return self._run_directory

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process

    def _exit_error(self) -> ServerError:
        status = self._running_process().poll()
        if status is None:
            return ServerError("the Triton server no longer answers")
        if status >= 0:
            reason = self._last_error()
            return ServerError(f"the Triton server ended with status {status}" + (f": {reason}" if reason else ""))
        # The errors in the log did not stop a server that a signal ended. An uncaught exception may have.
        reason = None if self.config.log_to_stderr else uncaught_exception(self.server_log, self._log_start)
        fix = "find the client that sends such requests, or raise --memory-limit"
        return ServerError(
            f"the Triton server was ended by {signal.Signals(-status).name}" + (f": {reason}" if reason else ""),
            fix=fix if reason == _OUT_OF_MEMORY else None,
        )

    def _timeout_error(self) -> ServerError:
        reason = self._last_error()
        return ServerError(
            f"the Triton server was not ready within start_timeout, {self.config.start_timeout:g} s"
            + (f"; its last error: {reason}" if reason else "")
        )

    def _last_error(self) -> str | None:
        """Return the last error in the server's log, or None. A log on standard error cannot be read."""
        return None if self.config.log_to_stderr else last_error(self.server_log, self._log_start)
