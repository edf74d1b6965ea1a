"""The CronJobs of the data pipeline: their commands, what they may reach, and who has the keys."""

from __future__ import annotations

import tomllib

import pytest

from cli.gate import REFUSED
from pipeline.settings import read_pipeline_settings
from reentry import __version__
from reentry.runtime.revision import IMAGE_VARIABLE
from tests.contract.manifests import K8S, Manifest, build, containers, every, one, secret_keys
from tests.contract.test_documents import parse

FOLDER = "pipeline/cron"
NAMES = ("reentry-build", "reentry-ingest", "reentry-maintain", "reentry-train")


def job(name: str) -> Manifest:
    """Return the template of the Jobs of a CronJob."""
    return one(FOLDER, "CronJob", name)["spec"]["jobTemplate"]


def pod(name: str) -> Manifest:
    """Return the specification of the pods of a CronJob."""
    return job(name)["spec"]["template"]["spec"]


def test_every_command_of_the_pipeline_is_scheduled_and_exists() -> None:
    commands = {}
    for name in NAMES:
        for container in containers(pod(name)):
            assert container["command"][0] == "reentry"
            assert "args" not in container
            parse(container["command"][1:])
            commands[container["name"]] = name
    assert commands == {
        "ingest": "reentry-ingest",
        "clean": "reentry-build",
        "features": "reentry-build",
        "maintain": "reentry-maintain",
        "retrain": "reentry-train",
    }
    assert {cron_job["metadata"]["name"] for cron_job in every(FOLDER, "CronJob")} == set(NAMES)
    # The features are computed from the tracks that the step before has cleaned.
    assert [step["name"] for step in pod("reentry-build")["initContainers"]] == ["clean"]


@pytest.mark.parametrize("name", NAMES)
def test_runs_neither_overlap_nor_last_for_ever(name: str) -> None:
    spec = one(FOLDER, "CronJob", name)["spec"]
    assert (spec["concurrencyPolicy"], spec["timeZone"]) == ("Forbid", "Etc/UTC")
    assert spec["startingDeadlineSeconds"] >= 1800
    assert job(name)["spec"]["backoffLimit"] == 2
    assert job(name)["spec"]["activeDeadlineSeconds"] <= 86_400
    assert pod(name)["restartPolicy"] == "Never"


def test_only_the_pod_that_ingests_has_the_keys_of_the_pseudonyms() -> None:
    found = {name: secret_keys([pod(name)]) for name in NAMES}
    assert found == {name: {} for name in NAMES} | {"reentry-ingest": {"reentry-pseudonym-keys": {"keys"}}}
    (container,) = containers(pod("reentry-ingest"))
    (variable,) = (each["name"] for each in container["env"])
    (settings,) = (each for each in every(FOLDER, "ConfigMap") if "pipeline.toml" in each["data"])
    assert tomllib.loads(settings["data"]["pipeline.toml"])["pipeline"]["pseudonym_keys"] == f"env:{variable}"


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_an_account_of_its_own_without_a_token(name: str) -> None:
    assert pod(name)["serviceAccountName"] == name
    assert one(FOLDER, "ServiceAccount", name)["automountServiceAccountToken"] is False
    assert job(name)["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] == name


@pytest.mark.parametrize("name", NAMES)
def test_the_pods_read_the_settings_from_the_file_that_a_variable_names(name: str) -> None:
    (environment,) = (each for each in every(FOLDER, "ConfigMap") if "REENTRY_PIPELINE" in each["data"])
    folder, _, file = environment["data"]["REENTRY_PIPELINE"].rpartition("/")
    volumes = {volume["name"]: volume for volume in pod(name)["volumes"]}
    for container in containers(pod(name)):
        assert environment["metadata"]["name"] in [
            source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source
        ]
        (mount,) = (each for each in container["volumeMounts"] if each["mountPath"] == folder)
        content = one(FOLDER, "ConfigMap", volumes[mount["name"]]["configMap"]["name"])["data"]
        assert set(content) == {file}
        # Everything that a command writes without being told where.
        assert environment["data"]["HOME"] in [each["mountPath"] for each in container["volumeMounts"]]


def test_the_settings_are_valid() -> None:
    settings = read_pipeline_settings(K8S / FOLDER / "pipeline.toml", environment={})
    assert settings.lake.startswith("s3://")
    assert settings.landing.startswith("s3://")


@pytest.mark.parametrize("name", NAMES)
def test_each_pod_runs_an_image_of_this_release_that_has_its_command(name: str) -> None:
    target = "train" if name == "reentry-train" else "pipeline"
    image = f"registry.example.com/reentry-{target}:{__version__}"
    assert {container["image"] for container in containers(pod(name))} == {image}


def test_the_pod_that_trains_names_its_image_in_the_record_of_runs() -> None:
    (container,) = containers(pod("reentry-train"))
    assert [each["name"] for each in container["env"]] == [IMAGE_VARIABLE]


def test_a_model_that_the_gate_refuses_is_not_trained_again() -> None:
    (rule,) = job("reentry-train")["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": "retrain", "operator": "In", "values": [REFUSED]}


def test_nobody_reaches_the_pods_and_only_two_reach_the_record_of_runs() -> None:
    policy, runs = (
        one(FOLDER, "NetworkPolicy", "reentry-pipeline"),
        one(FOLDER, "NetworkPolicy", "reentry-pipeline-runs"),
    )
    assert policy["spec"]["podSelector"] == {}
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in policy["spec"]
    assert runs["spec"]["podSelector"]["matchExpressions"][0]["values"] == ["reentry-maintain", "reentry-train"]
    assert {manifest["metadata"].get("namespace", "reentry-pipeline") for manifest in build(FOLDER)} == {
        "reentry-pipeline"
    }
