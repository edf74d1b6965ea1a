"""The Kubernetes manifests for TensorRT engines agree with the commands, the image and the settings."""

from __future__ import annotations

import re

import pytest
import typer

from cli import app
from export.tensorrt.config import TensorRTConfig, whole_shapes
from reentry import __version__
from registry.config_pbtxt import pinned, read
from registry.formats import FORMATS, Format
from tests.contract.manifests import K8S, Manifest, one, pod, triton
from tests.contract.test_k8s_manifests import violations

CONFIG = (K8S.parent / "model_repository/reentry_lstm/config.pbtxt").read_text()
STEPS = ("prepare", "build", "install")


def job() -> Manifest:
    """Return the pod specification of the job."""
    return one("tensorrt/job", "Job")["spec"]["template"]["spec"]


def steps(folder: str) -> dict[str, Manifest]:
    """Return the containers that build an engine, by name, in the order in which they run."""
    spec = job() if folder == "tensorrt/job" else pod(folder)
    containers = [*spec["initContainers"], *(spec["containers"] if folder == "tensorrt/job" else [])]
    return {container["name"]: container for container in containers}


def test_the_pod_of_the_job_follows_the_restricted_profile_and_writes_only_to_volumes() -> None:
    assert list(violations(job())) == []
    for container in steps("tensorrt/job").values():
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert re.search(r":\d[\w.-]*$", container["image"])
    assert job()["automountServiceAccountToken"] is False


def test_no_service_or_network_policy_of_the_server_selects_the_job() -> None:
    labels = one("tensorrt/job", "Job")["spec"]["template"]["metadata"]["labels"]
    for policy in ("Service", "NetworkPolicy"):
        selector = one("tensorrt/init", policy, "reentry")["spec"]
        selected = selector.get("podSelector", {}).get("matchLabels") or selector.get("selector")
        assert not selected.items() <= labels.items()
    assert one("tensorrt/init", "NetworkPolicy", "default-deny")["spec"]["podSelector"] == {}


def test_the_job_has_a_deadline_and_few_retries() -> None:
    spec = one("tensorrt/job", "Job")["spec"]
    assert spec["backoffLimit"] <= 2
    assert 0 < spec["activeDeadlineSeconds"] <= 3600
    assert job()["restartPolicy"] == "Never"


@pytest.mark.parametrize("folder", ["tensorrt/job", "tensorrt/init"])
def test_an_engine_is_prepared_built_and_installed_in_this_order(folder: str) -> None:
    containers = steps(folder)
    assert tuple(containers) == STEPS
    assert containers["build"]["command"] == ["sh", "/work/build.sh"]
    engine = typer.main.get_command(app).commands["engine"]
    for name in ("prepare", "install"):
        program, group, command, *options = containers[name]["command"]
        assert (program, group, command) == ("reentry", "engine", name)
        parsed = engine.commands[name].make_context(name, list(options)).params
        assert str(parsed["work"]) == "/work"
        if name == "prepare":
            assert str(parsed["repository"]) == "/models"
        else:
            assert str(parsed["keep"]) == ("/models" if folder == "tensorrt/job" else "None")


@pytest.mark.parametrize("folder", ["tensorrt/job", "tensorrt/init"])
def test_the_image_that_serves_the_engine_builds_it_on_a_gpu(folder: str) -> None:
    containers = steps(folder)
    server = triton("tensorrt/init")
    assert containers["build"]["image"] == server["image"] == triton("overlays/gpu")["image"]
    assert containers["build"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for name in ("prepare", "install"):
        # The image has its own name, because `deploy.sh --image` replaces every image with the name of the server's.
        assert containers[name]["image"] == f"registry.example.com/reentry-engine:{__version__}-cpu"
        assert "nvidia.com/gpu" not in containers[name]["resources"]["limits"]
    gpu = pod("overlays/gpu")
    spec = job() if folder == "tensorrt/job" else pod(folder)
    assert (spec["nodeSelector"], spec["tolerations"]) == (gpu["nodeSelector"], gpu["tolerations"])
    assert spec["securityContext"] == gpu["securityContext"]


@pytest.mark.parametrize("folder", ["tensorrt/job", "tensorrt/init"])
def test_the_steps_share_a_folder_and_only_the_job_writes_to_the_models_volume(folder: str) -> None:
    spec = job() if folder == "tensorrt/job" else pod(folder)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert "emptyDir" in volumes["work"]
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == one(folder, "PersistentVolumeClaim")["metadata"]["name"]
    for name, container in steps(folder).items():
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounts["/work"]["name"] == "work"
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        writes = "/models" in mounts and not mounts["/models"].get("readOnly")
        assert writes == (folder == "tensorrt/job" and name == "install")
    assert one("tensorrt/job", "PersistentVolumeClaim") == one("models/pvc", "PersistentVolumeClaim")


def test_the_server_mounts_the_checked_copy() -> None:
    (mount,) = [mount for mount in triton("tensorrt/init")["volumeMounts"] if mount["mountPath"] == "/models"]
    assert mount == {"name": "work", "mountPath": "/models", "subPath": "models", "readOnly": True}


def test_the_accelerator_has_the_documented_parameters_and_the_shapes_of_the_engines() -> None:
    on_gpu = pinned(CONFIG, version=1, spec=FORMATS[Format.ONNX], gpu=True)
    (added,) = one("tensorrt/accelerator", "ConfigMap", accelerator_map())["data"].values()
    (accelerator,) = read(on_gpu + added).optimization.execution_accelerators.gpu_execution_accelerator
    least, best, most = whole_shapes(TensorRTConfig())
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "precision_mode": "FP32",
        "max_workspace_size_bytes": str(TensorRTConfig().workspace_mib * 2**20),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/engines",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "/engines",
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": best,
        "trt_profile_max_shapes": most,
    }


def accelerator_map() -> str:
    (volume,) = [volume for volume in pod("tensorrt/accelerator")["volumes"] if "configMap" in volume]
    return volume["configMap"]["name"]


def test_the_accelerator_is_added_to_a_copy_and_its_engines_are_on_a_persistent_volume() -> None:
    spec = pod("tensorrt/accelerator")
    (container,) = spec["initContainers"]
    *_, script = container["command"]
    assert script.splitlines() == [
        "cp -R /models/. /served",
        "cat /accelerator/accelerator.pbtxt >>/served/reentry_lstm/config.pbtxt",
    ]
    assert container["image"] == triton("tensorrt/accelerator")["image"]  # the image whose models run on a GPU
    mounts = {mount["mountPath"]: mount for mount in triton("tensorrt/accelerator")["volumeMounts"]}
    assert mounts["/models"] == {"name": "served", "mountPath": "/models", "readOnly": True}
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in spec["volumes"]}
    (claim,) = [one("tensorrt/accelerator", "PersistentVolumeClaim")]
    assert claims[mounts["/engines"]["name"]] == {"claimName": claim["metadata"]["name"]}


def test_the_optimisation_profile_covers_the_largest_batch_and_the_warm_up_of_the_server() -> None:
    assert read(CONFIG).max_batch_size == TensorRTConfig().batch[2]
    for warm_up in read(CONFIG).model_warmup:
        track_length, _ = warm_up.inputs["features"].dims
        assert TensorRTConfig().time[0] <= track_length <= TensorRTConfig().time[2]
        assert warm_up.batch_size <= TensorRTConfig().batch[2]
