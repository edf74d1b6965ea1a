"""The images and the compose file agree with the code, the lock and the Kubernetes manifests."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from cli import app
from gateway.settings import GatewaySettings, read_gateway_settings
from reentry import __version__, schema
from reentry.runtime.revision import REVISION_VARIABLE
from reentry.serving import ServerConfig
from reentry.serving.http import CONTROL_HEADER
from reentry.serving.server import _CONTROL_APIS
from tests.contract.makefile import make
from tests.contract.manifests import GATEWAY, environment, pod, template, triton
from tests.contract.test_k8s_agreement import EXIT_TIMEOUT
from training.runs.recorder import LOCK

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile.triton"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
WITH_TRITON = yaml.safe_load((ROOT / "compose.triton.yaml").read_text())
RUN = ("cpu", "gpu", "gateway", "client", "pipeline", "train", "perf")
SERVE = ("cpu", "gpu")


def instructions() -> list[tuple[str, str]]:
    """Return the name and argument of each instruction, with continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, argument) for name, _, argument in (line.partition(" ") for line in joined)]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage, starting with its FROM."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, argument in instructions():
        if instruction == "FROM":
            name = argument.split(" AS ")[1]
            found[name] = []
        if name:
            found[name].append((instruction, argument))
    return found


def arguments(stage: str, instruction: str) -> list[str]:
    return [argument for name, argument in stages()[stage] if name == instruction]


def pairs(stage: str, instruction: str) -> dict[str, str]:
    """Return the keys and values of an ENV or LABEL instruction."""
    words = [word for argument in arguments(stage, instruction) for word in shlex.split(argument)]
    return dict(word.split("=", 1) for word in words)


def packages(kind: str) -> set[str]:
    (listed,) = [argument for name, argument in instructions() if argument.startswith(f"{kind}_PACKAGES=")]
    return set(shlex.split(listed)[0].partition("=")[2].split())


def imports_of(*patterns: str) -> str:
    """Return every import statement of the files, including those inside functions."""
    trees = [ast.parse(path.read_text()) for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {ast.unparse(node) for node in nodes if getattr(node, "module", "") != "__future__"}
    return "\n".join(sorted(found - {"import triton_python_backend_utils as pb_utils"}))  # Triton's own


def imported_by(command: str, statements: str) -> set[str]:
    """Return the distributions that the statements and the command's `--help` import, named as in the lock."""
    program = (
        f"import json, sys\n{statements}\nimport cli\nfrom typer.testing import CliRunner\n"
        f"CliRunner().invoke(cli.app, ['{command}', '--help'])\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    owners = importlib.metadata.packages_distributions()
    found = {owner for module in json.loads(done.stdout.splitlines()[-1]) for owner in owners.get(module, [])}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found} - {"reentry"} - OPTIONAL_IMPORTS


OPTIONAL_IMPORTS = {
    *("setuptools", "cloudpickle", "grpcio-health-checking", "watchfiles", "coverage", "google-auth"),
    "opentelemetry-proto",
}
"""Distributions that the client image need not contain, though the import of the client finds them here.

`setuptools`, `cloudpickle`, `grpcio-health-checking` and `watchfiles` are imported only if they are installed,
`coverage` measures the tests, `google-auth` shares the namespace `google` with protobuf, and `opentelemetry-proto` that
of OpenTelemetry.
"""


def started_on_gpu(folder: Path, *more: str, key: str = "") -> list[str]:
    """Return the arguments that the entry command of the gpu image passes to tritonserver."""
    stand_in = folder / "tritonserver"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    entry = [*json.loads(arguments("gpu", "ENTRYPOINT")[0]), *more]
    environment = {"PATH": f"{folder}:/usr/bin:/bin"} | ({"REENTRY_CONTROL_KEY": key} if key else {})
    done = subprocess.run(entry, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def restrictions(words: list[str]) -> set[tuple[str, str]]:
    """Return the flag and value of each argument that restricts an API."""
    pairs = {word.partition("=")[::2] for word in words}
    return {(flag, value) for flag, value in pairs if "restricted" in flag}


def test_the_gpu_server_restricts_the_same_apis_as_the_embedded_server(tmp_path: Path) -> None:
    restricted = f"{_CONTROL_APIS}:{CONTROL_HEADER}=secret"
    assert restrictions(started_on_gpu(tmp_path, key="secret")) == {
        ("--http-restricted-api", restricted),
        ("--grpc-restricted-protocol", restricted),
    }


def test_the_gpu_server_generates_a_new_key_at_each_start_without_one(tmp_path: Path) -> None:
    keys = {value for _ in range(2) for _, value in restrictions(started_on_gpu(tmp_path))}
    assert len(keys) == 2
    for key in keys:
        assert re.fullmatch(rf"{_CONTROL_APIS}:{CONTROL_HEADER}=[0-9a-f]{{32}}", key)


def test_the_gpu_server_limits_the_request_size_and_accepts_extra_arguments(tmp_path: Path) -> None:
    words = started_on_gpu(tmp_path, "--log-verbose=1")
    assert words[-1] == "--log-verbose=1"
    assert f"--http-max-input-size={16 * 2**20}" in words


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_base_images_are_arguments_with_a_version() -> None:
    # Only an ARG before the first FROM can set a base image.
    declared = dict(argument.split("=", 1) for name, argument in instructions()[:4] if name == "ARG")
    bases = {argument.split()[0] for name, argument in instructions() if name == "FROM"}
    outside = bases - set(stages()) - {"scratch"}
    assert outside == {"${PYTHON_IMAGE}", "${NODE_IMAGE}", "${TRITON_IMAGE}${TRITON_DIGEST:+@}${TRITON_DIGEST}"}
    assert re.search(r"/node:\d+-bookworm-slim$", declared["NODE_IMAGE"])
    assert re.search(r":3\.1[123]-slim", declared["PYTHON_IMAGE"])
    release = re.search(r"/tritonserver:(\d\d)\.(\d\d)-py3$", declared["TRITON_IMAGE"])
    assert release
    assert (int(release[1]), int(release[2])) >= (25, 7)  # older releases leak the names of shared memory


@pytest.mark.parametrize("stage", RUN)
def test_every_image_runs_without_root_and_has_labels(stage: str) -> None:
    assert arguments(stage, "USER")[-1] == "1000:1000"
    labels = pairs(stage, "LABEL")
    assert labels["org.opencontainers.image.version"] == __version__
    assert {"title", "description", "revision", "licenses"} <= {label.rpartition(".")[2] for label in labels}


def test_the_image_and_the_pods_have_the_same_user() -> None:
    context = pod("overlays/production")["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == arguments("cpu", "USER")[0]


@pytest.mark.parametrize("stage", SERVE)
def test_a_server_image_exposes_the_ports_and_is_healthy_when_the_ensemble_is_ready(stage: str) -> None:
    config = ServerConfig()
    assert [int(port) for port in arguments(stage, "EXPOSE")[0].split()] == list(config.ports.values())
    (check,) = arguments(stage, "HEALTHCHECK")
    probe = triton("overlays/production")["startupProbe"]["httpGet"]["path"]
    assert f"http://127.0.0.1:{config.http_port}{probe}" in check
    assert probe == f"/v2/models/{schema.ENSEMBLE.name}/ready"


def test_the_serve_command_accepts_the_entry_command() -> None:
    (entry,) = arguments("cpu", "ENTRYPOINT")
    program, command, *options = json.loads(entry)
    assert (program, command) == ("reentry", "serve")
    serve = typer.main.get_command(app).commands["serve"]
    parsed = serve.make_context("serve", list(options))
    assert str(parsed.params["repository"]) == "/models"
    assert parsed.params["log_dir"] == "-"


def test_the_serve_command_reads_every_variable_of_the_image_and_the_pods() -> None:
    serve = typer.main.get_command(app).commands["serve"]
    # The key has no option, because `ps` shows arguments.
    read = {"REENTRY_CONTROL_KEY"} | {parameter.envvar for parameter in serve.params if parameter.envvar}
    image = {name for name in pairs("cpu", "ENV") if name.startswith("REENTRY_")}
    assert image == {"REENTRY_ADDRESS", "REENTRY_DRAIN_TIMEOUT"}
    secret = {variable["name"] for variable in triton("overlays/production")["env"]}
    assert image | secret | set(environment("overlays/production")) <= read


def test_both_servers_have_the_drain_timeout_of_the_pods(tmp_path: Path) -> None:
    assert float(pairs("cpu", "ENV")["REENTRY_DRAIN_TIMEOUT"]) == EXIT_TIMEOUT
    assert f"--exit-timeout-secs={EXIT_TIMEOUT}" in started_on_gpu(tmp_path)


def test_the_image_keeps_its_models_where_pods_mount_others(tmp_path: Path) -> None:
    mounts = {mount["mountPath"] for mount in triton("models/pvc")["volumeMounts"]}
    assert "/models" in mounts
    assert "--model-repository=/models" in started_on_gpu(tmp_path)
    for stage, source in (("cpu", "models"), ("gpu", "gpu-models")):
        assert f"--from={source} /models /models" in arguments(stage, "COPY")


def test_every_overlay_uses_the_tag_of_its_build_target() -> None:
    for overlay, target in (("minikube", "cpu"), ("staging", "cpu"), ("production", "cpu"), ("gpu", "gpu")):
        assert triton(f"overlays/{overlay}")["image"].endswith(f"reentry-triton:{__version__}-{target}")


def test_the_server_image_has_exactly_the_packages_it_imports() -> None:
    statements = imports_of(
        "reentry/serving/*.py",
        "reentry/serving/backends/*/*.py",
        "model_repository/*/1/model.py",
        "reentry/features/orbit_filter.py",  # imported only if a network uses orbit features
        "cli/serve.py",
    )
    # nvidia-pytriton is run, not imported. attrs is an optional import of rich, and the others are of numba.
    optional = {"attrs", "pyyaml", "scipy"}
    assert packages("SERVER") == imported_by("serve", statements) - optional | {"nvidia-pytriton"}


def test_the_server_image_has_every_package_of_the_engine_command() -> None:
    statements = imports_of("cli/engine.py", "export/tensorrt/node.py")
    assert imported_by("engine", statements) - {"attrs"} <= packages("SERVER")


def test_the_client_image_has_exactly_the_packages_it_imports() -> None:
    statements = imports_of(
        "client/*.py",
        "client/stream/*.py",
        "reentry/tracks/*.py",
        "reentry/simulation/*.py",
        "reentry/runtime/progress.py",
    )
    # pandas reads tzdata only when a time zone is used.
    assert packages("CLIENT") == imported_by("predict", statements) | {"tzdata"}


def test_the_client_image_has_every_package_of_the_judge_of_a_canary() -> None:
    statements = imports_of("cli/canary.py", "pipeline/canary/*.py")
    assert imported_by("canary", statements) <= packages("CLIENT")


def test_the_perf_image_has_every_package_that_measuring_a_server_imports() -> None:
    # ONNX Runtime gives the ceiling, which needs the model repository and is not measured for a server elsewhere.
    statements = "\n".join(line for line in imports_of("perf/analyzer/*.py").splitlines() if "export." not in line)
    # matplotlib needs contourpy for contours alone; perf_analyzer is linked with the CUDA runtime.
    needed = imported_by("perf", statements) | {"contourpy", "nvidia-cuda-runtime-cu12"}
    assert needed - packages("CLIENT") == packages("PERF")


def test_the_gateway_image_has_exactly_the_packages_it_imports() -> None:
    statements = imports_of("gateway/**/*.py", "cli/gateway.py", "client/*.py", "registry/*.py", "reentry/tracks/*.py")
    # SQLAlchemy loads the drivers, uvicorn the loop and the parser, and httpx its transport when they are first used.
    named = {"aiosqlite", "psycopg", "psycopg-binary", "uvloop", "httptools", "httpcore", "h11"}
    # The signatures of webhooks; pandas reads tzdata only when a time zone is used.
    named |= {"standardwebhooks", "tzdata"}
    named |= {"async-timeout"}  # redis imports it before Python 3.11.3, and pip skips it afterwards
    assert packages("GATEWAY") == imported_by("gateway", statements) | named


def test_the_pipeline_image_has_exactly_the_packages_that_the_commands_on_tables_import() -> None:
    statements = imports_of(
        *(f"pipeline/{folder}/*.py" for folder in ("ingest", "clean", "lake", "privacy")),
        *(f"pipeline/features/{module}.py" for module in ("build", "kept")),
        "reentry/tracks/*.py",
        "reentry/features/orbit_filter.py",  # imported only for orbit features
        *(f"cli/{command}.py" for command in ("ingest", "lake", "features", "privacy")),
    )
    # Optional imports of numba, requests, MLflow and FastAPI, and distributions that share the namespace OpenTelemetry.
    optional = {"scipy", "chardet", "tqdm", "httpx", "opentelemetry-proto-json"}
    optional |= {f"opentelemetry-exporter-{name}" for name in EXPORTERS}
    # MLflow imports the first, and pandas reads tzdata only when a time zone is used.
    assert packages("PIPELINE") == imported_by("features", statements) - optional | {"opentelemetry-proto", "tzdata"}


EXPORTERS = ("http-transport", "otlp-common", "otlp-json-common", "otlp-json-http")
"""Exporters of traces, which the gateway alone needs."""


def test_the_pipeline_image_accepts_the_command_of_the_job() -> None:
    (container,) = template("pipeline/features", "Job")["spec"]["containers"]
    (entry,) = arguments("pipeline", "ENTRYPOINT")
    assert json.loads(entry) == ["reentry"]
    group, command, *options = container["args"]
    build = typer.main.get_command(app).commands[group].commands[command]
    assert build.make_context("build", list(options)).params["processes"] == int(
        container["resources"]["limits"]["cpu"]
    )
    assert container["image"].endswith(f"reentry-pipeline:{__version__}")


def test_the_image_that_trains_has_the_locked_packages_of_two_extras_and_records_revision_and_lock() -> None:
    (install, copy) = arguments("train-packages", "RUN")
    words = install.split()
    extras = [words[number + 1] for number, word in enumerate(words) if word == "--extra"]
    assert extras == ["pipeline", "export"]
    assert {"--constraint requirements.lock", "--override lock-overrides.txt"} <= set(
        re.findall(r"--(?:constraint|override) \S+", install)
    )
    assert copy == 'cp requirements.lock "$(echo /opt/reentry/lib/python3.*/site-packages)/"'
    assert (ROOT / "requirements.lock").samefile(LOCK)  # beside the packages, in a checkout and in site-packages
    for stage in ("pipeline", "train"):
        assert pairs(stage, "ENV")[REVISION_VARIABLE] == "${REVISION}"


@pytest.mark.parametrize("kind", ["SERVER", "CLIENT", "PERF", "GATEWAY", "PIPELINE"])
def test_every_package_of_an_image_is_locked(kind: str) -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert packages(kind) <= locked
    assert not packages(kind) & {"torch", "lightning", "scipy", "scikit-learn"}
    assert (kind == "PERF") == ("matplotlib" in packages(kind))


def test_the_build_context_holds_exactly_what_the_image_copies() -> None:
    ignored, *rules = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert ignored == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        word.replace("${MODEL_REPOSITORY}", "model_repository")
        for stage in stages()
        for argument in arguments(stage, "COPY")
        if "--from" not in argument
        for word in argument.split()[:-1]
    }
    # The page's files are copied before the rest of its folder, so that a changed source does not install it again.
    assert {name for name in copied if not any(name.startswith(f"{other}/") for other in copied | allowed)} == allowed
    assert all((ROOT / name).exists() for name in allowed)


def test_the_image_copies_every_package_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^packages = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)
    assert listed
    tops = {name.split(".")[0] for name in re.findall(r'"([\w.]+)"', listed[1])}
    assert {f"{name} {name}" for name in tops} <= set(arguments("package", "COPY"))


def test_compose_builds_each_target_under_its_image_name() -> None:
    built = {service["image"]: service["build"] for service in COMPOSE["services"].values() if "build" in service}
    assert {image: build["target"] for image, build in built.items()} == {
        f"reentry-triton:{__version__}-cpu": "cpu",
        f"reentry-gateway:{__version__}": "gateway",
        f"reentry-client:{__version__}": "client",
    }
    for build in built.values():
        assert (ROOT / build["context"] / build["dockerfile"]).samefile(DOCKERFILE)


def test_compose_publishes_ports_on_loopback_only() -> None:
    services = [*COMPOSE["services"].values(), *WITH_TRITON["services"].values()]
    published = [port for service in services for port in service.get("ports", [])]
    assert len(published) == 7
    for port in published:
        address, outside, inside = port.split(":")
        assert (address, outside) == ("127.0.0.1", inside)


def test_compose_runs_triton_with_the_settings_of_a_pod() -> None:
    service = COMPOSE["services"]["triton"]
    volumes = {volume["name"]: volume for volume in pod("overlays/production")["volumes"]}
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["shm_size"] == volumes["shared-memory"]["emptyDir"]["sizeLimit"].replace("Mi", "m")
    memory = triton("overlays/production")["resources"]["limits"]["memory"]
    assert service["mem_limit"] == memory.lower().removesuffix("i")
    assert service["stop_grace_period"] == f"{pod('overlays/production')['terminationGracePeriodSeconds']}s"
    assert "ports" not in service  # everything from outside passes the gateway
    assert set(WITH_TRITON["services"]) == {"triton"}
    published = {port.split(":")[2] for port in WITH_TRITON["services"]["triton"]["ports"]}
    assert published == {str(port) for port in ServerConfig().ports.values()}


def test_compose_runs_the_gateway_with_the_settings_of_a_pod(tmp_path: Path) -> None:
    services = COMPOSE["services"]
    limits = template("overlays/production", "Deployment", GATEWAY)["spec"]
    (container,) = limits["containers"]
    grace = f"{limits['terminationGracePeriodSeconds']}s"
    for name in ("gateway", "worker", "migration", "laptop", "database", "redis"):
        assert services[name]["read_only"]
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
    for name, command in (("gateway", None), ("worker", ["work"]), ("migration", ["migrate"]), ("laptop", None)):
        assert services[name].get("command") == command
        assert services[name]["mem_limit"] == container["resources"]["limits"]["memory"].lower().removesuffix("i")
        if name != "migration":
            assert services[name]["stop_grace_period"] == grace
    (url,) = services["gateway"]["secrets"]
    secret = tmp_path / url
    secret.write_text("postgresql://reentry:x@database:5432/reentry")
    given = services["gateway"]["environment"] | {"REENTRY_GATEWAY_DATABASE_URL_FILE": str(secret)}
    full = read_gateway_settings(None, environment=given)
    assert not full.embedded
    assert full.redis_url == "redis://redis:6379/0"
    image = {key: value for key, value in pairs("gateway", "ENV").items() if key.startswith("REENTRY_")}
    laptop = read_gateway_settings(None, environment=image | services["laptop"]["environment"])
    assert laptop.embedded
    assert laptop.worker_count == 1
    assert (laptop.redis_url, services["laptop"]["secrets"], services["laptop"]["profiles"]) == ("", [], ["laptop"])
    for settings in (full, laptop):
        assert settings.triton_url == f"grpc://triton:{ServerConfig().grpc_port}"
    assert "jobs:/jobs" in services["gateway"]["volumes"]
    assert services["worker"]["volumes"] == [f"jobs:{full.store_place}"]
    assert services["laptop"]["volumes"] == [f"laptop:{laptop.data}"]


def test_the_migration_of_compose_runs_once_before_gateway_and_workers() -> None:
    services = COMPOSE["services"]
    assert "restart" not in services["migration"]
    assert services["migration"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    for name in ("gateway", "worker"):
        assert services[name]["depends_on"]["migration"]["condition"] == "service_completed_successfully"


def test_the_secrets_of_compose_are_files_that_make_writes(tmp_path: Path) -> None:
    files = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}

    def made() -> dict[str, str]:
        done = make("secrets", f"OUT={tmp_path}")
        assert done.returncode == 0, done.stderr
        return {name: (tmp_path / path.removeprefix("artifacts/")).read_text() for name, path in files.items()}

    found = made()
    assert made() == found  # a second call keeps the password
    password = found["database-password"]
    assert len(password) == 48
    user = COMPOSE["services"]["database"]["environment"]["POSTGRES_USER"]
    url = f"postgresql://{user}:{password}@database:5432/reentry"
    assert found == {"database-password": password, "database-url": url}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_the_gateway_image_listens_where_its_health_check_asks() -> None:
    defaults = GatewaySettings()
    assert [int(port) for port in arguments("gateway", "EXPOSE")[0].split()] == [defaults.port, defaults.metrics_port]
    (check,) = arguments("gateway", "HEALTHCHECK")
    assert f"http://127.0.0.1:{defaults.port}/health/live" in check
    (worker,) = re.findall(r"http://\S+(?=')", COMPOSE["services"]["worker"]["healthcheck"]["test"][-1])
    assert worker == f"http://127.0.0.1:{defaults.metrics_port}/health/live"
    image = {name for name in pairs("gateway", "ENV") if name.startswith("REENTRY_")}
    assert image == {"REENTRY_GATEWAY_ADDRESS", "REENTRY_GATEWAY_DATA"}
    folders = {pairs("gateway", "ENV")["REENTRY_GATEWAY_DATA"], "/jobs"}
    (created,) = [argument for argument in arguments("gateway", "RUN") if argument.startswith("install ")]
    assert folders == {word for word in created.split() if word.startswith("/")}
    mounts = template("overlays/production", "Deployment", GATEWAY)["spec"]["containers"][0]["volumeMounts"]
    assert pairs("gateway", "ENV")["REENTRY_GATEWAY_DATA"] in {mount["mountPath"] for mount in mounts}


@pytest.mark.parametrize("command", ["serve", "work", "migrate"])
def test_the_gateway_image_runs_commands_that_exist(command: str) -> None:
    assert json.loads(arguments("gateway", "ENTRYPOINT")[0]) == ["reentry", "gateway"]
    assert json.loads(arguments("gateway", "CMD")[0]) == ["serve"]
    group = typer.main.get_command(app).commands["gateway"]
    group.commands[command].make_context(command, [])


def test_the_page_is_built_from_its_lock_and_without_scripts_of_packages() -> None:
    (install, build) = arguments("page", "RUN")
    assert "npm ci --ignore-scripts" in install
    assert build.startswith("node build.mjs ")
    assert "--from=page /page/dist /page" in arguments("gateway-package", "COPY")


def test_the_services_of_compose_find_each_other() -> None:
    services, config = COMPOSE["services"], ServerConfig()
    assert services["client"]["depends_on"]["triton"]["condition"] == "service_healthy"
    (script,) = services["client"]["command"]
    assert f"--url grpc://triton:{config.grpc_port}" in script
    contents = {name: yaml.safe_load(each["content"]) for name, each in COMPOSE["configs"].items()}
    job, gateway = contents["prometheus"]["scrape_configs"]
    found = [target for each in gateway["static_configs"] for target in each["targets"]]
    assert found == [f"{name}:{GatewaySettings().metrics_port}" for name in ("gateway", "worker")]
    (targets,) = job["static_configs"]
    assert targets["targets"] == [f"triton:{config.metrics_port}"]
    # The rules and the dashboard select and group by these labels.
    cluster = yaml.safe_load((ROOT / "k8s/monitoring/prometheus.yaml").read_text())["scrape_configs"][0]
    added = {rule.get("target_label") for rule in cluster["relabel_configs"]} - {None}
    assert (job["job_name"], set(targets["labels"])) == (cluster["job_name"], added)
    (source,) = contents["datasource"]["datasources"]
    assert source["url"] == f"http://prometheus:{services['prometheus']['ports'][0].split(':')[2]}"


def test_the_client_of_compose_runs_commands_that_exist() -> None:
    commands = typer.main.get_command(app).commands
    for line in COMPOSE["services"]["client"]["command"][0].splitlines():
        program, *words = shlex.split(line)
        if program == "reentry":
            commands[words[0]].make_context(words[0], words[1:])


def test_compose_refers_to_declared_names_and_existing_files() -> None:
    for service in COMPOSE["services"].values():
        assert {each["source"] for each in service.get("configs", [])} <= set(COMPOSE["configs"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), source
        assert re.search(r":v?\d+\.\d+", service["image"]), service["image"]
    (provider,) = yaml.safe_load(COMPOSE["configs"]["dashboards"]["content"])["providers"]
    assert any(f":{provider['options']['path']}/" in volume for volume in COMPOSE["services"]["grafana"]["volumes"])


def test_docker_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        [docker, "compose", "--file", ROOT / "compose.yaml", "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
