"""The server's configuration, its installation, and the configurations of a repository, without a server."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from reentry.errors import ConfigError, InputError, ServerError
from reentry.serving import EmbeddedServer, ServerConfig, server
from reentry.serving import config as config_module
from reentry.serving import installation as installation_module
from reentry.serving.config import held_ports
from reentry.serving.http import cause_of, is_live, is_ready
from reentry.serving.installation import find_installation, require_libraries, require_packages
from reentry.serving.log import last_error, uncaught_exception
from reentry.serving.repository import fitted_config, fitted_model_config, read_model_config
from reentry.serving.tuned import ModelTuning, tuned_config
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("settings", "problem", "expected", "got"),
    [
        ({"http_port": 65536}, "http_port out of range", "0 to 65535, 0 for any free one", "65536"),
        (
            {"http_port": 9000, "grpc_port": 9000},
            "duplicate port",
            "three different ports",
            "{'http_port': 9000, 'grpc_port': 9000, 'metrics_port': 8002}",
        ),
        ({"instances": 0}, "instances out of range", "1 to 1,024", "0"),
        ({"threads": -1}, "threads out of range", "1 to 1,024", "-1"),
        ({"model_control_mode": "auto"}, "unknown model_control_mode", "explicit or none or poll", "auto"),
        (
            {"model_control_mode": "poll", "instances": 2},
            "instances and threads cannot be chosen in model control mode poll",
            None,
            None,
        ),
        (
            {"otlp_endpoint": "collector:4318"},
            "invalid otlp_endpoint",
            "http://HOST:PORT of a collector, without a path",
            "collector:4318",
        ),
        ({"memory_limit": 0}, "memory_limit out of range", "1 to 16,777,216", "0"),
        ({"drain_timeout": 0.0}, "drain_timeout out of range", "0.001 to 86,400 s", "0.0"),
        ({"address": "localhost"}, "invalid address", "an IPv4 address, or 0.0.0.0 for all interfaces", "localhost"),
        ({"log_to_stderr": True, "log_directory": Path("logs")}, "two log destinations", None, None),
    ],
)
def test_a_setting_out_of_its_range_is_refused(
    settings: dict[str, object], problem: str, expected: str | None, got: str | None
) -> None:
    with pytest.raises(ConfigError) as error:
        ServerConfig(**settings)
    assert (error.value.problem, error.value.expected, error.value.got) == (problem, expected, got)


@pytest.mark.parametrize(
    ("cores", "threads", "instances"), [(1, None, 1), (2, None, 2), (16, None, 16), (16, 4, 4), (2, 8, 1)]
)
def test_instances_with_their_threads_fill_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int | None, instances: int
) -> None:
    monkeypatch.setattr(config_module, "cores", lambda: cores)
    assert ServerConfig(threads=threads).fitted_instances == instances


@pytest.mark.parametrize(
    ("address", "exposed", "own_host"),
    [("127.0.0.1", False, "127.0.0.1"), ("0.0.0.0", True, "127.0.0.1"), ("10.0.0.7", True, "10.0.0.7")],
)
def test_other_machines_can_reach_every_address_except_loopback(address: str, exposed: bool, own_host: str) -> None:
    config = ServerConfig(address=address)
    assert (config.exposed, config.own_host) == (exposed, own_host)
    assert EmbeddedServer(config).grpc_url == f"{own_host}:8001"


def test_the_server_listens_on_loopback_by_default() -> None:
    assert not ServerConfig().exposed


def test_a_configuration_that_fits_the_machine_is_not_replaced(model_repository: Path) -> None:
    config = ServerConfig(instances=2, threads=1)
    fitted = {name: fitted_model_config(model_repository, name, config) for name in ("reentry", "reentry_lstm")}
    assert fitted == {"reentry": None, "reentry_lstm": None}


def test_a_fitted_configuration_changes_only_instances_and_threads(model_repository: Path) -> None:
    text = fitted_model_config(model_repository, "reentry_lstm", ServerConfig(instances=3, threads=2))
    assert text is not None
    fitted = json.loads(text)
    assert fitted["instance_group"] == [{"kind": "KIND_CPU", "count": 4}]  # and the spare one
    assert fitted["parameters"]["intra_op_thread_count"] == {"string_value": "2"}
    assert fitted["max_batch_size"] == 64
    assert [warm_up["name"] for warm_up in fitted["model_warmup"]] == ["one track", "a batch"]


def test_a_model_with_a_bounded_queue_has_a_spare_instance() -> None:
    text = fitted_model_config(REPOSITORY, "reentry_track", ServerConfig(instances=5, threads=1))
    assert text is not None
    assert json.loads(text)["instance_group"] == [{"kind": "KIND_CPU", "count": 6}]
    assert fitted_model_config(REPOSITORY, "reentry_track", ServerConfig(instances=2, threads=1)) is None


@pytest.mark.parametrize(("instances", "slots"), [(1, 4096), (2, 2048), (3, 1366)])
def test_the_slots_for_sequences_are_divided_among_the_instances(instances: int, slots: int) -> None:
    config = read_model_config(REPOSITORY, "reentry_stream")
    fitted = fitted_config(config, ServerConfig(instances=instances, threads=1))
    assert fitted.instance_group[0].count == instances
    assert fitted.sequence_batching.oldest.max_candidate_sequences == slots
    tuned = tuned_config(config, ModelTuning(instances=instances))
    assert tuned.sequence_batching == fitted.sequence_batching


def test_a_configuration_for_gpus_is_not_fitted_to_cores(tmp_path: Path, model_repository: Path) -> None:
    source = (model_repository / "reentry_lstm" / "config.pbtxt").read_text()
    (tmp_path / "reentry_lstm").mkdir()
    (tmp_path / "reentry_lstm" / "config.pbtxt").write_text(source.replace("KIND_CPU", "KIND_GPU"))
    assert fitted_model_config(tmp_path, "reentry_lstm", ServerConfig(instances=3, threads=2)) is None


@pytest.mark.parametrize(
    ("fitted", "ready", "loaded"),
    [
        ({"network": None, "ensemble": None}, {"network", "ensemble"}, []),
        ({"network": None, "ensemble": None}, {"ensemble"}, [("network", None)]),
        ({"network": "{}", "ensemble": None}, set(), [("network", "{}"), ("ensemble", None)]),
        ({"network": "{}", "ensemble": None}, {"network", "ensemble"}, [("network", "{}")]),
    ],
)
def test_a_model_is_loaded_by_request_if_it_was_fitted_or_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
    fitted: dict[str, str | None],
    ready: set[str],
    loaded: list[tuple[str, str | None]],
) -> None:
    requests: list[tuple[str, str | None]] = []
    monkeypatch.setattr(server.api, "is_ready", lambda _, name: name in ready)
    monkeypatch.setattr(server.api, "load_model", lambda _, name, config, **__: requests.append((name, config)))
    embedded = EmbeddedServer(ServerConfig())
    embedded.models, embedded._ensembles, embedded._fitted = sorted(fitted), {"ensemble": ["network"]}, fitted
    embedded._load(deadline=0.0)
    assert requests == loaded


def test_free_ports_are_chosen_and_fixed_ones_kept() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        given = probe.getsockname()[1]
    with held_ports(ServerConfig(http_port=0, grpc_port=given, metrics_port=0)) as config:
        chosen = config.ports
    assert chosen["grpc_port"] == given
    assert len(set(chosen.values())) == 3
    assert min(chosen.values()) > 0


def test_a_port_is_held_for_the_server_until_it_has_started() -> None:
    with held_ports(ServerConfig(http_port=0, grpc_port=0, metrics_port=0)) as config:
        for port in config.ports.values():
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)):
                pass  # with SO_REUSEADDR, as Triton


def test_the_cause_of_a_failed_ensemble_is_the_error_of_its_member() -> None:
    answer = {
        "error": "load failed for model 'reentry': version 1 is at UNAVAILABLE state: Invalid argument: ensemble "
        "'reentry' depends on 'net' which has no loaded version. Model 'net' loading failed with error: version 1 is "
        "at UNAVAILABLE state: Internal: TritonModelException: the graph is broken\n\nAt:\n  model.py(3): initialize\n;"
    }
    assert cause_of(json.dumps(answer)) == ("net", "the graph is broken")
    assert cause_of("Bad Gateway") == (None, "Bad Gateway")


def test_the_last_error_is_that_of_this_run_and_not_of_an_earlier_one(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("E1120 17:00:00.000001 5 a.cc:1] an older run\n")
    start = log.stat().st_size
    assert last_error(log, start) is None
    with log.open("a") as file:
        file.write('I1120 17:00:01.000001 6 a.cc:1] fine\nE1120 17:00:01.000002 6 b.cc:2] "no such thing"\n')
    assert last_error(log, start) == "no such thing"
    with log.open("a") as file:
        file.write(
            "error: creating server: Internal - failed to load all models\nI1120 17:00:02.000001 6 a.cc:1] end\n"
        )
    assert last_error(log, start) == "creating server: Internal - failed to load all models"


def test_errors_about_a_missing_gpu_are_ignored(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    # Server 2.51 writes these on a machine without a GPU, at its start and when it loads an ensemble.
    log.write_text(
        'E1124 14:53:12.725661 3004 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        'E1124 14:53:15.714738 3004 model.cc:2] "no such thing"\n'
        'E1124 14:53:16.130980 3004 ensemble_scheduler.cc:1468] "unable to create stream for reentry: '
        'CUDA driver version is insufficient for CUDA runtime version"\n'
    )
    assert last_error(log) == "no such thing"
    assert uncaught_exception(log) is None
    log.write_text("".join(log.read_text().splitlines(keepends=True)[::2]))
    assert last_error(log) is None


def test_an_uncaught_exception_is_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(
        "I1124 fine\nterminate called after throwing an instance of 'std::length_error'\n"
        "  what():  vector::_M_default_append\nSignal (6) received.\n 0# 0x00005573F949252D in tritonserver\n"
    )
    assert uncaught_exception(log) == "vector::_M_default_append"
    assert uncaught_exception(log, log.stat().st_size) is None
    log.write_text("terminate called after throwing an instance of 'int'\nSignal (6) received.\n")
    assert uncaught_exception(log) == "int"


def test_a_port_without_a_server_is_neither_live_nor_ready() -> None:
    with socket.socket() as held:  # bound but not listening, so no other program can use it
        held.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{held.getsockname()[1]}"
        assert not is_live(url)
        assert not is_ready(url, "reentry")


def test_the_installation_of_this_environment_is_complete() -> None:
    found = find_installation()
    assert found.binary.is_file()
    assert found.stub.is_file()
    require_libraries(found)
    require_packages()


def test_the_error_without_the_package_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ServerError, match="no package nvidia-pytriton") as error:
        find_installation()
    assert "reentry[serve]" in (error.value.fix or "")


def test_a_missing_file_of_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Spec:
        origin = str(tmp_path / "pytriton/__init__.py")

    monkeypatch.setattr(installation_module.importlib.util, "find_spec", lambda _: Spec())
    with pytest.raises(ServerError, match="no server binary"):
        find_installation()


def test_a_missing_library_is_named_with_its_system_package(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_installation()
    name = installation_module.libpython()
    monkeypatch.setattr(installation_module.Installation, "missing_libraries", lambda _: [name])
    with pytest.raises(ServerError, match=name) as error:
        require_libraries(found)
    assert (error.value.fix or "").startswith("apt-get install libpython3")


def test_missing_libraries_are_those_that_the_loader_does_not_find(tmp_path: Path) -> None:
    found = find_installation()
    moved = shutil.copy2(found.stub, tmp_path)  # away from the libraries that it finds relative to itself
    missing = replace(found, stub=Path(moved), libraries=tmp_path).missing_libraries()
    assert [name.split("-")[0] for name in missing] == ["libcudart"]
    assert replace(found, stub=Path(moved)).missing_libraries() == []


def test_packages_that_a_stub_cannot_import_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to("/bin/false")
    monkeypatch.setattr(installation_module, "program_path", lambda: str(tmp_path))
    with pytest.raises(ServerError, match=r"cannot import numpy, onnxruntime, reentry.features.track"):
        require_packages()


def test_a_server_that_was_not_started_has_no_process_and_no_logs() -> None:
    embedded = EmbeddedServer(ServerConfig())
    for access in (lambda: embedded.log_directory, lambda: embedded.process_id, embedded.wait):
        with pytest.raises(ServerError, match="is not running"):
            access()
    embedded.stop()


@pytest.mark.parametrize("loop", ["repository", "log folder", "server.log", "predictions.jsonl"])
def test_a_symbolic_link_that_loops_is_a_clear_error(model_repository: Path, tmp_path: Path, loop: str) -> None:
    link = tmp_path / loop
    link.symlink_to(link)
    repository = link if loop == "repository" else model_repository
    logs = link if loop == "log folder" else tmp_path
    config = ServerConfig(
        model_repository=repository, log_directory=logs, http_port=0, grpc_port=0, metrics_port=0, instances=1
    )
    with pytest.raises((InputError, ServerError)) as error, EmbeddedServer(config):
        pass
    assert str(link) in (error.value.where or "")


def test_open_shared_memory_is_refused_on_an_address_that_others_reach() -> None:
    ServerConfig(open_shared_memory=True)
    with pytest.raises(ConfigError, match="open_shared_memory") as error:
        ServerConfig(open_shared_memory=True, address="0.0.0.0")
    assert (error.value.expected, error.value.got) == ("127.0.0.1", "0.0.0.0")
