"""Terraform of `infra/`: format, types, its own tests, an apply to a stand-in for AWS, and who may do what afterwards."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.contract.cloud import ACCOUNT, UNSUPPORTED, cloud, permissions_checked
from tests.contract.terraform import INFRA, Workspace

REGION = "eu-central-1"
NAME = "reentry-production"
SETTINGS = ("-input=false", "-var-file=envs/production/settings.tfvars", f"-var=account_id={ACCOUNT}")
SECRET = "the password of the database"

OVERRIDE = """
terraform {
  backend "local" {}
}
provider "aws" {
  s3_use_path_style = true
  max_retries       = 2
}
"""
"""State on this machine, and the addresses of buckets that a server without a domain understands."""


def secrets(password: str) -> str:
    return json.dumps({"gateway": password, "control": "a key"})


class Applied:
    """An environment in the stand-in for AWS: its URL, the workspace, and the values of its resources."""

    def __init__(self, url: str, workspace: Workspace) -> None:
        self.url = url
        self.workspace = workspace
        self.resources = workspace.resources()

    def client(self, service: str, **credentials: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}),
            **(credentials or {"aws_access_key_id": "administrator", "aws_secret_access_key": "key"}),
        )

    def session(self, role: str) -> Any:
        """Return a client of S3 with the credentials of a role."""
        answer = self.client("sts").assume_role_with_web_identity(
            RoleArn=arn(role), RoleSessionName="test", WebIdentityToken="token"
        )["Credentials"]
        return self.client(
            "s3",
            aws_access_key_id=answer["AccessKeyId"],
            aws_secret_access_key=answer["SecretAccessKey"],
            aws_session_token=answer["SessionToken"],
        )

    def policy(self, role: str) -> str:
        """Return the policy of a role."""
        [policy] = [
            values["policy"]
            for address, values in self.resources.items()
            if ".aws_iam_role_policy." in address and values["role"] == f"{NAME}-{role}"
        ]
        return str(policy)


def arn(role: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:role/{NAME}-{role}"


def bucket(purpose: str) -> str:
    return f"{NAME}-{ACCOUNT}-{purpose}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of `infra/` whose provider agrees with the lock."""
    workspace = Workspace(tmp_path_factory.mktemp("terraform"))
    workspace.run("init", "-backend=false", "-input=false", "-lockfile=readonly")
    return workspace


@pytest.fixture(scope="module", autouse=True)
def applying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Workspace, subprocess.Popen[str]]]:
    """An apply in the background: most of its time it waits, as it must for the real AWS, while the first tests run."""
    workspace = Workspace(tmp_path_factory.mktemp("applied"))
    (workspace.folder / "test_override.tf").write_text(OVERRIDE)
    (workspace.folder / "modules/cluster/test_override.tf").write_text(UNSUPPORTED)
    with cloud() as url:
        workspace.environment |= {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "administrator",
            "AWS_SECRET_ACCESS_KEY": "key",
            "AWS_EC2_METADATA_DISABLED": "true",
            "TF_VAR_secret_values": secrets(SECRET),
        }
        workspace.run("init", "-input=false", "-lockfile=readonly")
        with (workspace.folder.parent / "log").open("w") as log:
            apply = subprocess.Popen(
                workspace.command("apply", "-auto-approve", "-no-color", *SETTINGS),
                env=workspace.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
            yield url, workspace, apply
            if apply.poll() is None:
                apply.terminate()
                apply.wait()


@pytest.fixture(scope="module")
def applied(applying: tuple[str, Workspace, subprocess.Popen[str]]) -> Applied:
    """The environment, once it is there."""
    url, workspace, apply = applying
    assert apply.wait(timeout=900) == 0, (workspace.folder.parent / "log").read_text()[-5000:]
    return Applied(url, workspace)


def test_the_files_have_the_format_of_terraform(workspace: Workspace) -> None:
    workspace.run("fmt", "-check", "-recursive", "-diff")


def test_the_configuration_is_valid_and_passes_its_own_tests(workspace: Workspace) -> None:
    workspace.run("validate")
    assert re.search(r"Success! .*\b[1-9][0-9] passed, 0 failed", workspace.run("test", "-no-color"))


@pytest.mark.parametrize("environment", ["dev", "staging", "production"])
def test_an_environment_has_its_own_state_and_account(environment: str) -> None:
    settings = (INFRA / "envs" / environment / "settings.tfvars").read_text()
    account = re.search(r'account_id\s+= "(\d+)"', settings)
    assert account is not None
    assert set(re.findall(r"\b\d{12}\b", settings)) == {account[1]}
    assert f'environment      = "{environment}"' in settings
    assert f'"reentry-{environment}-{account[1]}-state"' in (INFRA / "envs" / environment / "backend.hcl").read_text()


def test_a_second_plan_is_empty_whatever_the_secrets_are(applied: Applied) -> None:
    applied.workspace.environment["TF_VAR_secret_values"] = secrets("unused")
    applied.workspace.run("plan", "-detailed-exitcode", "-no-color", *SETTINGS)


def test_a_secret_is_in_the_manager_and_not_in_the_state(applied: Applied) -> None:
    stored = applied.client("secretsmanager").get_secret_value(SecretId="reentry/production/gateway")
    assert stored["SecretString"] == SECRET
    assert SECRET not in (applied.workspace.folder / "terraform.tfstate").read_text()


def test_a_bucket_keeps_versions_encrypts_with_a_key_and_forgets_old_versions(applied: Applied) -> None:
    s3 = applied.client("s3")
    keys = {alias["AliasName"]: alias["TargetKeyId"] for alias in applied.client("kms").list_aliases()["Aliases"]}
    for purpose in ("landing", "lake", "models", "mlflow", "jobs"):
        name = bucket(purpose)
        assert s3.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
        [rule] = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"].endswith(keys[f"alias/{NAME}-data"])
        assert all(s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"].values())
        assert s3.get_bucket_logging(Bucket=name)["LoggingEnabled"]["TargetBucket"] == bucket("logs")
        rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]}
        assert rules["noncurrent"]["NoncurrentVersionExpiration"]["NoncurrentDays"] == 14
        assert rules["current"]["Expiration"].get("Days") == (7 if purpose == "landing" else None)


ACCESS = [
    ("ingest", "GetObject", "landing", "2026/01/01/00.csv", True),
    ("ingest", "PutObject", "landing", "2026/01/01/00.csv", False),
    ("ingest", "PutObject", "lake", "raw/part.parquet", True),
    ("ingest", "PutObject", "lake", "quarantine/part.parquet", True),
    ("ingest", "PutObject", "lake", "features/part.parquet", False),
    ("ingest", "DeleteObjectVersion", "lake", "raw/part.parquet", False),
    ("ingest", "DeleteObjectVersion", "landing", "2026/01/01/00.csv", False),
    ("train", "GetObject", "lake", "clean/part.parquet", True),
    ("train", "PutObject", "lake", "features/part.parquet", True),
    ("train", "PutObject", "mlflow", "1/model.ckpt", True),
    ("train", "GetObject", "landing", "2026/01/01/00.csv", False),
    ("train", "GetObject", "lake", "raw/part.parquet", False),
    ("train", "PutObject", "lake", "clean/part.parquet", False),
    ("train", "PutObject", "models", "reentry_lstm/1/model.onnx", False),
    ("promote", "PutObject", "models", "reentry_lstm/1/model.onnx", True),
    ("promote", "GetObject", "lake", "clean/part.parquet", False),
    ("score", "GetObject", "models", "reentry_lstm/1/model.onnx", True),
    ("score", "PutObject", "models", "reentry_lstm/1/model.onnx", False),
    ("score", "PutObject", "lake", "clean/part.parquet", False),
    ("serve", "GetObject", "models", "reentry_lstm/1/model.onnx", True),
    ("serve", "PutObject", "models", "reentry_lstm/1/model.onnx", False),
    ("serve", "DeleteObject", "models", "reentry_lstm/1/model.onnx", False),
    ("serve", "GetObject", "lake", "clean/part.parquet", False),
    ("gateway", "PutObject", "jobs", "job/result.csv", True),
    ("gateway", "GetObject", "models", "reentry_lstm/1/model.onnx", False),
    ("privacy-officer", "DeleteObjectVersion", "lake", "raw/part.parquet", True),
    ("privacy-officer", "GetObject", "lake", "raw/part.parquet", False),
    ("privacy-officer", "DeleteObjectVersion", "models", "reentry_lstm/1/model.onnx", False),
]
"""Role, call, bucket, object, and whether the role may."""


@pytest.mark.parametrize(("role", "call", "purpose", "key", "allowed"), ACCESS)
def test_a_role_reaches_its_own_objects_and_no_others(
    applied: Applied, role: str, call: str, purpose: str, key: str, allowed: bool
) -> None:
    place = {"Bucket": bucket(purpose), "Key": key}
    version = applied.client("s3").put_object(**place, Body=b"")["VersionId"]
    s3 = applied.session(role)
    calls = {
        "GetObject": lambda: s3.get_object(**place),
        "PutObject": lambda: s3.put_object(**place, Body=b""),
        "DeleteObject": lambda: s3.delete_object(**place),
        "DeleteObjectVersion": lambda: s3.delete_object(**place, VersionId=version),
    }
    with permissions_checked():
        if allowed:
            calls[call]()
        else:
            with pytest.raises(ClientError, match="AccessDenied"):
                calls[call]()
