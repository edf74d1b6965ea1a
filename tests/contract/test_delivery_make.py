"""Tests that run the make targets of the delivery, with a fake container engine and a real Triton."""

from __future__ import annotations

import json
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
from tests.contract.test_vulnerabilities import ENTRY, IMAGE_REPORT, SCRIPT
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


TRIVY = """#!/bin/sh
echo "$*" >>"$CALLS"
while [ "$1" != --output ]; do shift; done
cp "$REPORT" "$2"
"""


@pytest.mark.parametrize(("accepted", "status"), [("", 2), (ENTRY, 0)])
def test_the_scan_decides_on_the_report_of_every_finding(checkout: Path, accepted: str, status: int) -> None:
    fake_program(checkout, "trivy", TRIVY)
    (checkout / "k8s" / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, checkout / "k8s" / "scripts")
    (checkout / ".trivyignore").write_text(accepted.replace("2027-01-31", "9999-12-31"))
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    words = ["scan", "TARGET=gateway", "IMAGE=a:1", f"PYTHON={sys.executable}"]
    done = make(*words, folder=checkout, CALLS=str(checkout / "calls"), PATH=path, REPORT=str(IMAGE_REPORT))
    assert done.returncode == status, done.stderr
    assert ("CVE-2099-0001 in libexample1" in done.stderr) == (status != 0)
    report = "artifacts/image/gateway/scan.json"
    assert (checkout / "calls").read_text() == f"image --format json --ignorefile /dev/null --output {report} a:1\n"
    assert (checkout / report).read_text() == IMAGE_REPORT.read_text()


AUDIT = """#!/bin/sh
while [ "$1" != --output ]; do shift; done
printf '%s' "$FOUND" >"$2"
exit "$STATUS"
"""
VULNERABLE = {"name": "examplelib", "version": "4.0", "vulns": [{"id": "CVE-2099-0001", "fix_versions": ["4.1"]}]}


@pytest.mark.parametrize(
    ("found", "accepted", "fault"),
    [
        ([VULNERABLE], "", "CVE-2099-0001 in examplelib 4.0"),
        ([VULNERABLE], ENTRY, None),
        (None, ENTRY, "Error 1"),
    ],
)
def test_the_audit_fails_on_a_vulnerability_without_an_entry_and_without_a_report(
    checkout: Path, found: list[dict] | None, accepted: str, fault: str | None
) -> None:
    """pip-audit exits with 1 in each case, and writes no report if it could not examine a package."""
    fake_program(checkout, "pip-audit", AUDIT)
    (checkout / "bin" / "python").symlink_to(sys.executable)
    (checkout / "k8s" / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, checkout / "k8s" / "scripts")
    (checkout / ".trivyignore").write_text(accepted.replace("2027-01-31", "9999-12-31").replace("cpu", "lock"))
    report = "" if found is None else json.dumps({"dependencies": found, "fixes": []})
    done = make("--old-file=setup", "audit", "BIN=bin", folder=checkout, FOUND=report, STATUS="1")
    assert done.returncode == (0 if fault is None else 2), done.stderr
    assert fault is None or fault in done.stderr


def test_the_bill_of_the_lock_lists_every_package_with_its_version_and_hashes(tmp_path: Path) -> None:
    done = make("--old-file=setup", "sbom-lock", f"BIN={Path(sys.executable).parent}", f"OUT={tmp_path}")
    assert done.returncode == 0, done.stderr
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "reentry")
    listed = {
        f"{part['name']}=={part['version']}": {
            each["content"] for link in part["externalReferences"] for each in link.get("hashes", ())
        }
        for part in bill["components"]
    }
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines()
    assert listed == {line.split()[0]: set(re.findall(r"--hash=sha256:(\w+)", line)) for line in lock}
    assert len(listed) > 200
    assert all(listed.values())
    # Two runs write the same file: it has no time and no random number.
    assert "serialNumber" not in bill
    assert "timestamp" not in bill["metadata"]


@pytest.mark.parametrize(("key", "option"), [("", ""), ("hashivault://reentry", "--key hashivault://reentry ")])
def test_sign_signs_the_pushed_digest_and_its_bill_of_materials(checkout: Path, key: str, option: str) -> None:
    fake_program(checkout, "cosign", '#!/bin/sh\necho "$*" >>"$CALLS"\n')
    folder = checkout / "artifacts" / "image" / "gateway"
    folder.mkdir(parents=True)
    (folder / "reference").write_text(f"registry.example.com/reentry-gateway@{DIGEST}\n")
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    words = ["sign", "TARGET=gateway", f"SIGNING_KEY={key}"]
    done = make(*words, folder=checkout, CALLS=str(checkout / "calls"), PATH=path)
    assert done.returncode == 0, done.stderr
    assert (checkout / "calls").read_text().splitlines() == [
        f"sign --yes {option}registry.example.com/reentry-gateway@{DIGEST}",
        f"attest --yes {option}--type cyclonedx --predicate artifacts/image/gateway/sbom.cdx.json"
        f" registry.example.com/reentry-gateway@{DIGEST}",
    ]


@pytest.mark.parametrize(
    ("signer", "options"),
    [
        (
            {"SIGNER": "https://example.com/delivery.yml@refs/heads/main", "ISSUER": "https://example.com"},
            "--certificate-identity https://example.com/delivery.yml@refs/heads/main"
            " --certificate-oidc-issuer https://example.com",
        ),
        ({"SIGNING_KEY": "hashivault://reentry"}, "--key hashivault://reentry"),
    ],
)
@pytest.mark.parametrize("refused", ["", "verify", "verify-attestation"])
def test_verify_checks_signatures_and_bills_of_both_images_and_fails_on_either(
    checkout: Path, signer: dict[str, str], options: str, refused: str
) -> None:
    fake_program(checkout, "cosign", '#!/bin/sh\necho "$*" >>"$CALLS"\n[ "$1" != "$REFUSED" ]\n')
    settings = signer | {"IMAGE": "a@sha256:1", "GATEWAY_IMAGE": "b@sha256:2", "REFUSED": refused}
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    done = make("verify", folder=checkout, CALLS=str(checkout / "calls"), PATH=path, **settings)
    assert (done.returncode == 0) == (not refused)
    calls = [
        f"verify {options} a@sha256:1 b@sha256:2",
        f"verify-attestation --type cyclonedx {options} a@sha256:1 b@sha256:2",
    ]
    assert (checkout / "calls").read_text().splitlines() == calls[: 1 if refused == "verify" else 2]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"SIGNING_KEY": "k"}, "which image?"),
        ({"IMAGE": "a@sha256:1"}, "which signer?"),
        ({"IMAGE": "a@sha256:1", "SIGNER": "s"}, "which issuer?"),
    ],
)
def test_verify_without_an_image_or_a_signer_fails_before_it_starts(
    checkout: Path, settings: dict[str, str], problem: str
) -> None:
    done = make("verify", folder=checkout, **settings)
    assert done.returncode == 2
    assert problem in done.stderr


@pytest.mark.parametrize("target", ["gateway", "pipeline", "train"])
def test_an_image_that_serves_no_model_is_built_without_one(checkout: Path, target: str) -> None:
    shutil.rmtree(checkout / "model_repository")
    fake_program(checkout, "podman", ENGINE)
    fake_program(checkout, "git", "#!/bin/sh\necho 0123abcd\n")
    path = only_these(checkout, "bash", "sh", "sed", "awk", "basename")
    done = make("build", f"TARGET={target}", folder=checkout, CALLS=str(checkout / "calls"), PATH=path)
    assert done.returncode == 0, done.stderr
    (call,) = (checkout / "calls").read_text().splitlines()
    assert f" --target {target} --tag reentry-{target}:" in call


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
        timeout=300,
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
