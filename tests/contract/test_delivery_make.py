"""The make targets of delivery, run: with a stand-in for the container engine, and against a real Triton."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reentry.serving import EmbeddedServer
from tests.contract.makefile import ROOT, make
from tests.contract.manifests import program

DIGEST = f"sha256:{64 * 'b'}"

ENGINE = f"""#!/bin/sh
echo "$(basename "$0") $*" >>"$ASKED"
case "$*" in
"image inspect"*) printf 'elsewhere.example.com/reentry-triton@sha256:0\\n%s\\n' "$REPOSITORY@{DIGEST}" ;;
push\\ --digestfile*) printf '{DIGEST}' >"$3" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile beside a model, and a folder `bin` for stand-ins."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    model = tmp_path / "model_repository" / "reentry_lstm" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.touch()
    (tmp_path / "bin").mkdir()
    return tmp_path


def stand_in(checkout: Path, name: str, script: str) -> None:
    path = checkout / "bin" / name
    path.write_text(script)
    path.chmod(0o755)


def only_these(checkout: Path, *names: str) -> str:
    """A PATH of the stand-ins and of the named programs alone."""
    for name in names:
        (checkout / "bin" / name).symlink_to(program(name))
    return str(checkout / "bin")


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_push_writes_down_by_which_digest_the_image_is_deployed(checkout: Path, engine: str) -> None:
    stand_in(checkout, engine, ENGINE)
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    repository = "registry.example.com/reentry-triton"
    words = [f"ENGINE={engine}", "REGISTRY=registry.example.com", "TAG=1-cpu"]
    done = make("push", *words, folder=checkout, ASKED=str(checkout / "asked"), PATH=path, REPOSITORY=repository)
    assert done.returncode == 0, done.stderr
    assert f"{repository}:1-cpu" in (checkout / "asked").read_text()
    assert (checkout / "artifacts" / "image" / "reference").read_text() == f"{repository}@{DIGEST}\n"


@pytest.mark.parametrize(("there", "taken"), [(("buildah", "podman"), "podman"), (("buildah",), "buildah")])
def test_build_takes_the_engine_that_is_here(checkout: Path, there: tuple[str, ...], taken: str) -> None:
    for engine in there:
        stand_in(checkout, engine, ENGINE)
    stand_in(checkout, "git", "#!/bin/sh\necho 0123abcd\n")
    path = only_these(checkout, "bash", "sh", "sed", "awk", "basename")
    done = make("build", folder=checkout, ASKED=str(checkout / "asked"), PATH=path)
    assert done.returncode == 0, done.stderr
    (asked,) = (checkout / "asked").read_text().splitlines()
    assert asked.startswith(f"{taken} build --file Dockerfile.triton --target cpu --tag reentry-triton:")
    assert "--format docker" in asked  # without it these two drop the HEALTHCHECK
    assert "REVISION=0123abcd" in asked


def test_without_an_engine_build_says_what_to_install(checkout: Path) -> None:
    path = only_these(checkout, "bash", "sh", "sed", "awk")
    done = make("build", folder=checkout, PATH=path)
    assert done.returncode != 0
    assert "docker, podman and buildah are missing; fix: install one of them" in done.stderr


def test_deploy_wants_to_know_where() -> None:
    done = make("deploy")
    assert done.returncode != 0
    assert "make deploy OVERLAY=staging" in done.stderr


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (["deploy", "OVERLAY=staging"], {}, "k8s/scripts/deploy.sh staging"),
        (["deploy", "OVERLAY=staging"], {"IMAGE": "a@sha256:1"}, "k8s/scripts/deploy.sh staging --image a@sha256:1"),
        (["rollback"], {}, "k8s/scripts/rollback.sh"),
        (["rollback", "NAMESPACE=n", "REVISION=3"], {}, "k8s/scripts/rollback.sh --namespace n --to-revision 3"),
        (["rollback", "NAMESPACE=n", "REVISION="], {}, "k8s/scripts/rollback.sh --namespace n"),
        (["health-check", "NAMESPACE=n"], {}, "k8s/scripts/health-check.sh --namespace n"),
        (["minikube"], {}, "k8s/scripts/minikube.sh"),
    ],
)
def test_targets_hand_their_variables_to_the_scripts(words: list, environment: dict, expected: str) -> None:
    done = make("--dry-run", *words, **environment)
    assert " ".join(done.stdout.replace("\\\n", " ").split()) == expected
    assert (ROOT / expected.split()[0]).is_file()


def test_health_check_scores_a_track_on_a_running_server(server: EmbeddedServer) -> None:
    program("curl")
    done = make("health-check", f"URL=http://{server.http_url}")
    assert done.returncode == 0, done.stderr
    assert "healthy: reentry_lstm version 1 answered" in done.stdout


APT = """#!/bin/sh
echo "apt-get $*" >>"$ASKED"
case "$*" in install*prometheus*) exit "$BROKEN" ;; esac
"""


@pytest.mark.parametrize(("broken", "installs"), [("0", 1), ("100", 2)])
def test_a_bare_machine_is_filled_by_one_call_and_goes_on_without_what_it_cannot_have(
    checkout: Path, broken: str, installs: int
) -> None:
    """Nothing is here but bash, Python and apt-get."""
    (checkout / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", checkout / ".ci" / "run")
    stand_in(checkout, "apt-get", APT)
    stand_in(checkout, "ldconfig", "#!/bin/sh\n")
    stand_in(checkout, "id", "#!/bin/sh\necho 0\n")
    stand_in(checkout, "make", '#!/bin/sh\necho "make $*"\n')
    stand_in(checkout, "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    path = only_these(checkout, "bash", "sh", "grep", "dirname")
    done = subprocess.run(
        [checkout / ".ci" / "run"],
        env={"PATH": path, "ASKED": str(checkout / "asked"), "BROKEN": broken},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("make test")
    asked = [line for line in (checkout / "asked").read_text().splitlines() if "install" in line]
    assert len(asked) == installs
    optional = ["curl", "kubernetes-client", "nginx-light", "prometheus", "prometheus-alertmanager"]
    assert asked[0].split("--no-install-recommends ")[1].split()[1:] == optional
    assert asked[-1].split("--no-install-recommends ")[1].startswith("libpython3.")
