"""Three CI pipelines run the same make targets in the same order, with pinned actions and minimal permissions."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.contract.makefile import ROOT, make
from tests.contract.manifests import ENVIRONMENTS, GATEWAY, K8S, one, program, server_deployment

BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()

DELIVERY = [
    "make lint",
    ".ci/run",
    "make sbom-lock",
    "make audit",
    "make run",
    "make build",
    "make build TARGET=gateway",
    "make build TARGET=pipeline",
    "make build TARGET=train",
    "make scan",
    "make scan TARGET=gateway",
    "make scan TARGET=pipeline",
    "make scan TARGET=train",
    "make sbom",
    "make sbom TARGET=gateway",
    "make sbom TARGET=pipeline",
    "make sbom TARGET=train",
    "make push",
    "make push TARGET=gateway",
    "make push TARGET=pipeline",
    "make push TARGET=train",
    "make sign",
    "make sign TARGET=gateway",
    "make sign TARGET=pipeline",
    "make sign TARGET=train",
    "make verify",
    "make deploy OVERLAY=staging",
    "make health-check NAMESPACE=reentry-staging",
    "make verify",
    "make deploy OVERLAY=production",
]
"""Commands of the delivery, in order. An image is scanned before its push, and verified before its deployment."""

PUSHED = {
    "IMAGE": "${{ needs.image.outputs.reference }}",
    "GATEWAY_IMAGE": "${{ needs.image.outputs.gateway }}",
}
"""References of the pushed images, in the jobs that follow."""

NAMESPACES = {name: one(f"overlays/{name}", "Namespace")["metadata"]["name"] for name in ("staging", "production")}


def workflow(name: str) -> dict:
    # YAML 1.1 reads the key `on` as true.
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())


def jobs() -> Iterator[tuple[str, dict]]:
    for path in WORKFLOWS:
        for name, job in workflow(path.stem)["jobs"].items():
            yield f"{path.stem}: {name}", job


def steps() -> Iterator[dict]:
    for _, job in jobs():
        yield from job.get("steps", ())


def commands(script: str) -> list[str]:
    """Return the calls of make and of .ci/run, with the overlay, namespace or target."""
    return re.findall(r"(?:^|\s)(make [a-z-]+(?: (?:OVERLAY|NAMESPACE|TARGET)=[\w-]+)?|\.ci/run)", script)


def github() -> list[str]:
    """Return the commands of the checks, then of the delivery.

    The job that builds the image of a pull request is left out, because it is not part of the delivery.
    """
    checks = workflow("checks")["jobs"]
    own = [checks[name] for name in checks if name != "image"] + list(workflow("delivery")["jobs"].values())
    return [command for job in own for step in job.get("steps", ()) for command in commands(step.get("run", ""))]


def gitlab() -> list[str]:
    pipeline = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    scripts = [job["script"] for name, job in pipeline.items() if "script" in job and "rollback" not in name]
    lines = [line for script in scripts for line in ([script] if isinstance(script, str) else script)]
    return [command for line in lines for command in commands(line)]


def jenkins() -> list[str]:
    pipeline = (ROOT / "Jenkinsfile").read_text()
    return [each for each in commands("\n".join(re.findall(r"\bsh '(.*)'", pipeline))) if each != "make rollback"]


@pytest.mark.parametrize("pipeline", [github, gitlab, jenkins])
def test_every_pipeline_runs_the_same_targets_in_the_same_order(pipeline: Callable[[], list[str]]) -> None:
    assert pipeline() == DELIVERY


def test_the_makefile_documents_every_target_that_the_pipelines_call() -> None:
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, flags=re.MULTILINE)
    documented = re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, flags=re.MULTILINE)
    assert set(phony.replace("\\", "").split()) - {"check"} == set(documented)
    assert {"setup", "run", "test", "lint", "clean", "minikube", "monitoring", "load-test"} <= set(documented)
    called = {command.split()[1] for command in [*DELIVERY, "make rollback"] if command.startswith("make")}
    assert called <= set(documented)
    assert re.findall(r"^make ([a-z-]+) ", make("help").stdout, flags=re.MULTILINE) == documented


def test_actionlint_finds_nothing_in_the_workflows() -> None:
    found = subprocess.run(
        [BIN / "actionlint", "-shellcheck", BIN / "shellcheck", *WORKFLOWS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("needs: [image, sign, staging]", "needs: [image, sign, stagin]", "stagin"),
        ("steps.push.outputs.reference", "steps.pusch.outputs.reference", "pusch"),
        ('>>"$GITHUB_OUTPUT"', ">>$GITHUB_OUTPUT", "SC2086"),
    ],
)
def test_actionlint_finds_a_wrong_reference_and_an_unquoted_variable(right: str, wrong: str, complaint: str) -> None:
    text = (ROOT / ".github" / "workflows" / "delivery.yml").read_text()
    assert right in text
    found = subprocess.run(
        [BIN / "actionlint", "-shellcheck", BIN / "shellcheck", "-"],
        cwd=ROOT,
        input=text.replace(right, wrong),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert complaint in found.stdout


def test_yamllint_finds_nothing_in_the_pipelines() -> None:
    lint = [sys.executable, "-m", "yamllint", "--strict", "--config-file", K8S / ".yamllint.yaml"]
    found = subprocess.run(
        [*lint, ROOT / ".github", ROOT / ".gitlab-ci.yml"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_every_action_is_pinned_by_commit_and_states_its_version() -> None:
    for path in WORKFLOWS:
        for line in re.findall(r"uses: (.*)", path.read_text()):
            assert line.startswith("./.github/") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_no_action_is_used_in_two_versions() -> None:
    pins = {step["uses"] for step in steps() if "uses" in step}
    names = [pin.partition("@")[0] for pin in pins]
    assert len(names) == len(set(names))


def test_only_the_jobs_that_push_and_sign_have_write_permission() -> None:
    for path in WORKFLOWS:
        assert "write" not in str(workflow(path.stem)["permissions"]), path.name
    writers = {name: job["permissions"] for name, job in jobs() if "write" in str(job.get("permissions"))}
    read = {"contents": "read"}
    assert writers == {
        "delivery: image": read | {"packages": "write"},
        "delivery: sign": read | {"packages": "write", "id-token": "write", "attestations": "write"},
    }


def test_the_job_that_signs_builds_nothing_and_signs_and_attests_every_image() -> None:
    sign = workflow("delivery")["jobs"]["sign"]
    assert sign["needs"] == "image"
    signed = [command for step in sign["steps"] for command in commands(step.get("run", ""))]
    assert signed == [command for command in DELIVERY if command.startswith("make sign")]
    attested = [step["with"] for step in sign["steps"] if step.get("uses", "").startswith("actions/attest@")]
    assert [each["push-to-registry"] for each in attested] == [True] * len(signed)
    outputs = workflow("delivery")["jobs"]["image"]["outputs"]
    (split,) = [step for step in sign["steps"] if step.get("id") == "split"]
    assert sorted(split["env"].values()) == sorted(f"${{{{ needs.image.outputs.{name} }}}}" for name in outputs)
    images = {name: f"x/{name.lower()}@sha256:{number}" for number, name in enumerate(split["env"])}
    written = dict(line.split("=", 1) for line in split_outputs(split["run"], images))
    subjects = [
        "@".join(
            written[each[name].removeprefix("${{ steps.split.outputs.").removesuffix(" }}")]
            for name in ("subject-name", "subject-digest")
        )
        for each in attested
    ]
    assert subjects == list(images.values())


def split_outputs(script: str, images: dict[str, str]) -> list[str]:
    """Return the lines that a step writes to its outputs for these images."""
    environment = images | {"GITHUB_OUTPUT": "/dev/stdout"}
    done = subprocess.run(["bash", "-eu"], input=script, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_job_that_pushes_reports_the_reference_of_every_image(tmp_path: Path) -> None:
    image = workflow("delivery")["jobs"]["image"]
    (push,) = [step for step in image["steps"] if step.get("id") == "push"]
    references = {}
    for output, expression in image["outputs"].items():
        assert expression == f"${{{{ steps.push.outputs.{output} }}}}"
        file = tmp_path / "artifacts" / "image" / ("" if output == "reference" else output) / "reference"
        file.parent.mkdir(parents=True, exist_ok=True)
        references[output] = f"x/{output}@sha256:1"
        file.write_text(f"{references[output]}\n")
    script = "make() { :; }\n" + push["run"]
    environment = {"GITHUB_OUTPUT": "/dev/stdout", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-eu"], input=script, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == references


@pytest.mark.parametrize("name", ["staging", "production"])
def test_a_deployment_requires_signatures_and_provenance_of_the_workflow_on_main(name: str) -> None:
    delivery = workflow("delivery")
    assert delivery["env"] == {
        "SIGNER": "${{ github.server_url }}/${{ github.repository }}/.github/workflows/delivery.yml@refs/heads/main",
        "ISSUER": "https://token.actions.githubusercontent.com",
    }
    job = delivery["jobs"][name]
    assert job["permissions"] == {"contents": "read", "packages": "read", "attestations": "read"}
    runs = [step.get("run", "") for step in job["steps"]]
    (verifies,) = [number for number, run in enumerate(runs) if "make verify" in run]
    (deploys,) = [number for number, run in enumerate(runs) if "make deploy" in run]
    assert verifies < deploys
    assert (
        'gh attestation verify "oci://$image" --repo "$GITHUB_REPOSITORY" --cert-identity "$SIGNER"' in runs[verifies]
    )
    # The cluster's credentials are not on the runner before.
    assert not any("kubeconfig" in run for run in runs[: verifies + 1])


def test_the_job_of_gitlab_that_signs_is_the_only_one_with_a_token_for_signatures() -> None:
    pipeline = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    assert [name for name, job in pipeline.items() if "id_tokens" in job] == ["sign"]
    assert pipeline["sign"]["id_tokens"] == {"SIGSTORE_ID_TOKEN": {"aud": "sigstore"}}
    assert pipeline["variables"]["SIGNER"].endswith("//.gitlab-ci.yml@refs/heads/$CI_DEFAULT_BRANCH")
    for name in ("staging", "production"):
        assert "sign" in pipeline[name]["needs"]
        assert pipeline[name]["extends"] == ".signed"
    assert pipeline[".signed"]["before_script"][1:] == [
        'IMAGE="$(cat artifacts/image/reference)"',
        'GATEWAY_IMAGE="$(cat artifacts/image/gateway/reference)"',
        "export IMAGE GATEWAY_IMAGE",
    ]


def test_jenkins_verifies_the_images_that_it_deploys() -> None:
    called = re.findall(r"sh 'make (verify|deploy) (?:OVERLAY=\w+ )?(.*)'", (ROOT / "Jenkinsfile").read_text())
    assert [name for name, _ in called] == ["verify", "deploy", "verify", "deploy"]
    images = 'IMAGE="$(cat artifacts/image/reference)" GATEWAY_IMAGE="$(cat artifacts/image/gateway/reference)"'
    assert {given for _, given in called} == {images}


def test_no_checkout_keeps_its_credentials() -> None:
    checkouts = [step for step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) > 5
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_every_job_has_a_timeout() -> None:
    for name, job in jobs():
        assert "uses" in job or 0 < job["timeout-minutes"] <= 60, name


def test_production_follows_staging_and_deploys_the_same_image() -> None:
    delivery = workflow("delivery")["jobs"]
    assert delivery["staging"]["needs"] == ["image", "sign"]
    assert delivery["production"]["needs"] == ["image", "sign", "staging"]
    assert delivery["image"]["if"] == "github.ref == 'refs/heads/main'"
    for name in ("staging", "production"):
        assert delivery[name]["environment"] == name
        assert delivery[name]["concurrency"] == name
        assert delivery[name]["env"] == PUSHED | {"REENTRY_KEY": "${{ secrets.REENTRY_KEY }}"}


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_rollback_names_the_namespace_of_its_environment(environment: str) -> None:
    namespace = NAMESPACES[environment]
    gitlab_job = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())[f"rollback {environment}"]
    assert gitlab_job["environment"] == environment
    assert f"NAMESPACE={namespace} " in gitlab_job["script"]
    (rollback,) = workflow("rollback")["jobs"].values()
    (named,) = [step["env"]["NAMESPACE"] for step in rollback["steps"] if "NAMESPACE" in step.get("env", {})]
    choice = f"== 'production' && '{NAMESPACES['production']}' || '{NAMESPACES['staging']}'"
    assert choice in named
    assert choice.replace("&&", "?").replace("||", ":") in (ROOT / "Jenkinsfile").read_text()


def test_the_health_check_names_the_namespace_of_staging() -> None:
    assert f"make health-check NAMESPACE={NAMESPACES['staging']}" in DELIVERY


def test_the_pipelines_test_every_python_that_the_project_supports() -> None:
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]
    assert workflow("checks")["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    (matrix,) = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())["test"]["parallel"]["matrix"]
    assert matrix["PYTHON_VERSION"] == named


def recipe(target: str, *variables: str) -> str:
    """Return the commands that make would run."""
    done = make("--dry-run", "--old-file=setup", "ENGINE=docker", target, *variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("folder", [folder for folder in ENVIRONMENTS if not folder.endswith("minikube")])
def test_the_build_tags_the_image_that_the_overlay_uses(folder: str) -> None:
    program("kubectl")
    server = server_deployment(folder)["spec"]["template"]["spec"]["containers"][0]["image"]
    gateway = one(folder, "Deployment", GATEWAY)["spec"]["template"]["spec"]["containers"][0]["image"]
    for image, target in ((server, server.rpartition("-")[2]), (gateway, "gateway")):
        built = recipe("build", f"TARGET={target}", "REGISTRY=registry.example.com")
        assert f" --target {target} --tag {image} " in built.replace("\\\n\t", " ")


def test_the_guide_refers_to_existing_targets_overlays_and_files() -> None:
    guide = (ROOT / "docs" / "deployment.md").read_text()
    targets = re.findall(r"(?:^|`)make ([a-z-]+)", guide, flags=re.MULTILINE)
    expected = "audit build scan sbom push sign verify deploy rollback health-check minikube load-test"
    assert set(expected.split()) <= set(targets)
    assert set(targets) <= set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
    for overlay in re.findall(r"OVERLAY=([\w/]+)", guide):
        assert any((K8S / folder / overlay / "kustomization.yaml").is_file() for folder in ("", "overlays")), overlay
    for namespace in re.findall(r"NAMESPACE=([\w-]+)", guide):
        assert namespace in NAMESPACES.values()
    files = re.findall(r"`((?:k8s|\.github|\.ci)/[\w./-]+)", guide) + re.findall(r"\]\(\.\./([\w./-]+)\)", guide)
    assert len(files) > 5
    assert not [name for name in files if not (ROOT / name).exists()]
