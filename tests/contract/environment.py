"""An environment of `infra/` in a stand-in for AWS: its apply, its resources, and clients of its roles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import Any

import boto3
from botocore.config import Config

from tests.contract.cloud import ACCOUNT, UNSUPPORTED, cloud
from tests.contract.terraform import Workspace

REGION = "eu-central-1"
NAME = "reentry-production"
SETTINGS = ("-input=false", "-var-file=envs/production/settings.tfvars", f"-var=account_id={ACCOUNT}")
SECRET = "the password of the database"

ROLES = (
    *("ingest", "build", "features", "train", "score", "maintain", "monitor", "serve", "gateway", "secrets"),
    *("sender", "analyst", "privacy-officer", "delivery"),
)

ACCESS = [
    ("sender", "PutObject", "landing", "2026-01-01T00/a.csv", True),
    ("sender", "GetObject", "landing", "2026-01-01T00/a.csv", False),
    ("sender", "DeleteObject", "landing", "2026-01-01T00/a.csv", False),
    ("ingest", "GetObject", "landing", "2026-01-01T00/a.csv", True),
    ("ingest", "PutObject", "landing", "2026-01-01T00/a.csv", False),
    ("ingest", "PutObject", "lake", "raw/a.parquet", True),
    ("ingest", "PutObject", "lake", "quarantine/a.parquet", True),
    ("ingest", "PutObject", "lake", "_conditional-write-1", True),
    ("ingest", "PutObject", "lake", "clean/a.parquet", False),
    ("ingest", "DeleteObjectVersion", "lake", "raw/a.parquet", False),
    ("ingest", "DeleteObjectVersion", "landing", "2026-01-01T00/a.csv", False),
    ("build", "GetObject", "lake", "raw/a.parquet", True),
    ("build", "PutObject", "lake", "raw/a.parquet", False),
    ("build", "PutObject", "lake", "features/a.parquet", True),
    ("build", "GetObject", "landing", "2026-01-01T00/a.csv", False),
    ("features", "PutObject", "lake", "features/a.parquet", True),
    ("features", "PutObject", "lake", "clean/a.parquet", False),
    ("features", "GetObject", "lake", "raw/a.parquet", False),
    ("train", "GetObject", "lake", "features/a.parquet", True),
    ("train", "PutObject", "lake", "verdicts/a.parquet", True),
    ("train", "PutObject", "mlflow", "1/model.ckpt", True),
    ("train", "PutObject", "models", "reentry_lstm/1/model.onnx", True),
    ("train", "GetObject", "landing", "2026-01-01T00/a.csv", False),
    ("train", "GetObject", "lake", "raw/a.parquet", False),
    ("train", "PutObject", "lake", "features/a.parquet", False),
    ("score", "GetObject", "models", "reentry_lstm/1/model.onnx", True),
    ("score", "PutObject", "lake", "predictions/a.parquet", True),
    ("score", "PutObject", "models", "reentry_lstm/1/model.onnx", False),
    ("maintain", "DeleteObject", "lake", "features/a.parquet", True),
    ("maintain", "DeleteObjectVersion", "lake", "features/a.parquet", False),
    ("maintain", "GetObject", "models", "reentry_lstm/labels.json", True),
    ("maintain", "PutObject", "models", "reentry_lstm/labels.json", False),
    ("monitor", "GetObject", "lake", "clean/_delta_log/0.json", True),
    ("monitor", "GetObject", "lake", "clean/a.parquet", False),
    ("serve", "GetObject", "models", "reentry_lstm/1/model.onnx", True),
    ("serve", "PutObject", "models", "reentry_lstm/1/model.onnx", False),
    ("serve", "DeleteObject", "models", "reentry_lstm/1/model.onnx", False),
    ("serve", "GetObject", "lake", "clean/a.parquet", False),
    ("gateway", "PutObject", "jobs", "job/result.csv", True),
    ("gateway", "GetObject", "models", "reentry_lstm/1/model.onnx", False),
    ("analyst", "GetObject", "lake", "clean/a.parquet", True),
    ("analyst", "GetObject", "lake", "raw/a.parquet", False),
    ("analyst", "PutObject", "lake", "clean/a.parquet", False),
    ("privacy-officer", "DeleteObjectVersion", "lake", "raw/a.parquet", True),
    ("privacy-officer", "DeleteObjectVersion", "landing", "2026-01-01T00/a.csv", True),
    ("privacy-officer", "PutObject", "lake", "clean/a.parquet", True),
    ("privacy-officer", "PutObject", "models", "reentry_lstm/1/model.onnx", False),
]
"""Role, call, bucket, object, and whether the role may."""

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


@contextmanager
def start_applying(folder: Path) -> Iterator[tuple[str, Workspace, Popen[str]]]:
    """Start to apply the settings of production; give the URL of the stand-in, the workspace, and the process."""
    workspace = Workspace(folder)
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
        command = workspace.command("apply", "-auto-approve", "-no-color", *SETTINGS)
        with (
            workspace.log.open("w") as log,
            Popen(command, env=workspace.environment, stdout=log, stderr=STDOUT, text=True) as apply,
        ):
            try:
                yield url, workspace, apply
            finally:
                apply.terminate()
