"""Tests that run the make targets of the delivery, with a fake container engine and a real Triton."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reentry.serving import EmbeddedServer
from tests.contract.makefile import ROOT, make
from tests.contract.manifests import program
from tests.gateway_servers import POSTGRESQL

DIGEST = f"sha256:{64 * 'b'}"

ENGINE = f"""#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
case "$*" in
"image inspect"*) printf 'elsewhere.example.com/reentry-triton@sha256:0\\n%s\\n' "$REPOSITORY@{DIGEST}" ;;
push\\ --digestfile*) printf '{DIGEST}' >"$3" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Folder with the Makefile, a model, and a folder `bin` for fake programs."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    model = tmp_path / "model_repository" / "reentry_lstm" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.touch()
    (tmp_path / "bin").mkdir()
    return tmp_path


def fake_program(checkout: Path, name: str, script: str) -> None:
    path = checkout / "bin" / name
    path.write_text(script)
    path.chmod(0o755)


def only_these(checkout: Path, *names: str) -> str:
    """Return a PATH with only the fake programs and the named ones."""
    for name in names:
        (checkout / "bin" / name).symlink_to(program(name))
    return str(checkout / "bin")


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_push_writes_the_digest_of_the_image_to_a_file(checkout: Path, engine: str) -> None:
    fake_program(checkout, engine, ENGINE)
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    repository = "registry.example.com/reentry-triton"
    words = [f"ENGINE={engine}", "REGISTRY=registry.example.com", "TAG=1-cpu"]
    done = make("push", *words, folder=checkout, CALLS=str(checkout / "calls"), PATH=path, REPOSITORY=repository)
    assert done.returncode == 0, done.stderr
    assert f"{repository}:1-cpu" in (checkout / "calls").read_text()
    assert (checkout / "artifacts" / "image" / "reference").read_text() == f"{repository}@{DIGEST}\n"


def test_each_image_of_a_release_has_the_tag_of_the_commit_and_a_reference_of_its_own(checkout: Path) -> None:
    fake_program(checkout, "podman", ENGINE)
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    for target, name, folder in (("cpu", "reentry-triton", "image"), ("gateway", "reentry-gateway", "image/gateway")):
        repository = f"registry.example.com/{name}"
        words = ["ENGINE=podman", "REGISTRY=registry.example.com", "RELEASE=0123", f"TARGET={target}"]
        done = make("push", *words, folder=checkout, CALLS=str(checkout / "calls"), PATH=path, REPOSITORY=repository)
        assert done.returncode == 0, done.stderr
        assert (checkout / "artifacts" / folder / "reference").read_text() == f"{repository}@{DIGEST}\n"
    tags = [line.split()[-1] for line in (checkout / "calls").read_text().splitlines()]
    assert tags == ["registry.example.com/reentry-triton:0123-cpu", "registry.example.com/reentry-gateway:0123"]


def test_the_gateway_is_built_without_a_model(checkout: Path) -> None:
    shutil.rmtree(checkout / "model_repository")
    fake_program(checkout, "podman", ENGINE)
    fake_program(checkout, "git", "#!/bin/sh\necho 0123abcd\n")
    path = only_these(checkout, "bash", "sh", "sed", "awk", "basename")
    done = make("build", "TARGET=gateway", folder=checkout, CALLS=str(checkout / "calls"), PATH=path)
    assert done.returncode == 0, done.stderr
    (call,) = (checkout / "calls").read_text().splitlines()
    assert " --target gateway --tag reentry-gateway:" in call


@pytest.mark.parametrize(("installed", "chosen"), [(("buildah", "podman"), "podman"), (("buildah",), "buildah")])
def test_build_uses_the_installed_engine(checkout: Path, installed: tuple[str, ...], chosen: str) -> None:
    for engine in installed:
        fake_program(checkout, engine, ENGINE)
    fake_program(checkout, "git", "#!/bin/sh\necho 0123abcd\n")
    path = only_these(checkout, "bash", "sh", "sed", "awk", "basename")
    done = make("build", folder=checkout, CALLS=str(checkout / "calls"), PATH=path)
    assert done.returncode == 0, done.stderr
    (call,) = (checkout / "calls").read_text().splitlines()
    assert call.startswith(f"{chosen} build --file Dockerfile.triton --target cpu --tag reentry-triton:")
    assert "--format docker" in call  # podman and buildah drop the HEALTHCHECK without it
    assert "REVISION=0123abcd" in call


def test_build_without_an_engine_names_the_engines_to_install(checkout: Path) -> None:
    path = only_these(checkout, "bash", "sh", "sed", "awk")
    done = make("build", folder=checkout, PATH=path)
    assert done.returncode != 0
    assert "docker, podman and buildah are missing; fix: install one of them" in done.stderr


def test_deploy_without_an_overlay_shows_the_usage() -> None:
    done = make("deploy")
    assert done.returncode != 0
    assert "make deploy OVERLAY=staging" in done.stderr


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (["deploy", "OVERLAY=staging"], {}, "k8s/scripts/deploy.sh staging"),
        (["deploy", "OVERLAY=staging"], {"IMAGE": "a@sha256:1"}, "k8s/scripts/deploy.sh staging --image a@sha256:1"),
        (
            ["deploy", "OVERLAY=staging"],
            {"IMAGE": "a@sha256:1", "GATEWAY_IMAGE": "b@sha256:2"},
            "k8s/scripts/deploy.sh staging --image a@sha256:1 --gateway-image b@sha256:2",
        ),
        (["rollback"], {}, "k8s/scripts/rollback.sh"),
        (["rollback", "DEPLOYMENT=d"], {}, "k8s/scripts/rollback.sh --deployment d"),
        (["rollback", "NAMESPACE=n", "REVISION=3"], {}, "k8s/scripts/rollback.sh --namespace n --to-revision 3"),
        (["rollback", "NAMESPACE=n", "REVISION="], {}, "k8s/scripts/rollback.sh --namespace n"),
        (["health-check", "NAMESPACE=n"], {}, "k8s/scripts/health-check.sh --namespace n"),
        (["minikube"], {}, "k8s/scripts/minikube.sh"),
    ],
)
def test_each_target_passes_its_variables_to_its_script(words: list, environment: dict, expected: str) -> None:
    done = make("--dry-run", *words, **environment)
    assert " ".join(done.stdout.replace("\\\n", " ").split()) == expected
    assert (ROOT / expected.split()[0]).is_file()


@pytest.mark.parametrize(("words", "measured"), [((), False), (("COVERAGE=1",), True)])
def test_the_tests_measure_coverage_on_request_and_fail_below_90_percent(words: tuple, measured: bool) -> None:
    done = make("--dry-run", "test", *words)
    (pytest_line,) = re.findall(r"/pytest (.+?)(?<!\\)\n", done.stdout, re.DOTALL)
    assert ("--cov" in pytest_line.split()) == measured
    assert ("--cov-fail-under=90" in pytest_line.split()) == measured


def test_the_health_check_scores_a_track_on_a_running_server(server: EmbeddedServer) -> None:
    program("curl")
    done = make("health-check", f"URL=http://{server.http_url}")
    assert done.returncode == 0, done.stderr
    assert "healthy: reentry_lstm version 1 answered" in done.stdout


APT = """#!/bin/sh
echo "apt-get $*" >>"$CALLS"
case "$*" in install*chromium*) exit "$BROKEN" ;; esac
"""

CI_PACKAGES = [
    "curl",
    "kubernetes-client",
    "libb64-0d",
    "nginx-light",
    "prometheus",
    "prometheus-alertmanager",
    "redis-server",
    "postgresql-15",
    "chromium",
    "nodejs",
    "npm",
]
"""Optional packages of .ci/run on a machine that has none of them."""


@pytest.mark.parametrize("broken", [False, True])
def test_ci_installs_packages_at_once_and_continues_without_one_that_is_not_available(
    checkout: Path, broken: bool, tmp_path: Path
) -> None:
    """The machine has only bash, Python and apt-get."""
    (checkout / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", checkout / ".ci" / "run")
    fake_program(checkout, "apt-get", APT)
    fake_program(checkout, "ldconfig", "#!/bin/sh\n")
    fake_program(checkout, "id", "#!/bin/sh\necho 0\n")
    fake_program(checkout, "make", '#!/bin/sh\necho "make $*"\n')
    fake_program(checkout, "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    path = only_these(checkout, "bash", "sh", "grep", "dirname")
    done = subprocess.run(
        [checkout / ".ci" / "run"],
        env={"PATH": path, "CALLS": str(checkout / "calls"), "BROKEN": "100" if broken else "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("make test COVERAGE=1 ")
    installs = [line for line in (checkout / "calls").read_text().splitlines() if "install" in line]
    installed = [line.split("--no-install-recommends ")[1].split() for line in installs]
    library, *optional = installed[0]
    assert library.startswith("libpython3.")
    # PostgreSQL of the machine that runs the tests is seen, because its folder is not on the path.
    expected = [each for each in CI_PACKAGES if each != "postgresql-15" or not POSTGRESQL.exists()]
    assert optional == expected
    assert installed[1:] == ([[each] for each in (library, *expected)] if broken else [])
    assert ("not installed: chromium" in done.stderr) == broken
