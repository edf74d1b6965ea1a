"""A stand-in for AWS on this machine: moto, corrected where it loses what Terraform gives it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from moto import settings
from moto.ec2.responses.launch_templates import LaunchTemplates
from moto.eks.models import Cluster
from moto.eks.responses import EKSResponse
from moto.iam.access_control import PermissionResult
from moto.iam.models import iam_backends
from moto.s3.models import FakeBucket
from moto.server import ThreadedMotoServer

ACCOUNT = "123456789012"

UNSUPPORTED = """
resource "aws_eks_addon" "network" {
  count = 0
}
resource "aws_eks_addon" "others" {
  for_each = toset([])
}
resource "aws_eks_access_entry" "administrators" {
  for_each = toset([])
}
resource "aws_eks_access_entry" "deployer" {
  count = 0
}
"""
"""An override of the module `cluster` without add-ons and access entries, which moto does not have."""


def _create_nodegroup(self: EKSResponse) -> Any:
    """Create a node group, and keep its update settings and its absent remote access."""
    answer = _CREATE_NODEGROUP(self)
    group = self.eks_backend.describe_nodegroup(self._get_param("name"), self._get_param("nodegroupName"))
    group.update_config, group.remote_access = self._get_param("updateConfig"), None
    return answer


def _create_launch_template(self: LaunchTemplates) -> Any:
    """Create a launch template, and keep its own tags out of those of the instances."""
    answer = _CREATE_LAUNCH_TEMPLATE(self)
    for template in self.ec2_backend.launch_templates.values():
        for version in template.versions:
            version.data.pop("TagSpecifications", None)
    return answer


_CREATE_NODEGROUP = EKSResponse.create_nodegroup
_CREATE_LAUNCH_TEMPLATE = LaunchTemplates.create_launch_template


@contextmanager
def cloud() -> Iterator[str]:
    """Run the stand-in, and give its URL."""
    access = {"authenticationMode": "API", "bootstrapClusterCreatorAdminPermissions": False}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with (
        patch.dict(os.environ, MOTO_IAM_LOAD_MANAGED_POLICIES="true"),
        patch.object(Cluster, "access_config", access, create=True),
        patch.object(EKSResponse, "create_nodegroup", _create_nodegroup),
        patch.object(LaunchTemplates, "create_launch_template", _create_launch_template),
        # Every denial in the policy of a bucket has a condition, and moto would deny without it.
        patch.object(FakeBucket, "get_permission", lambda *_: PermissionResult.NEUTRAL),
    ):
        iam_backends[ACCOUNT]["aws"].reset()  # loads the policies of AWS
        server.start()
        try:
            host, port = server.get_host_and_port()
            yield f"http://{host}:{port}"
        finally:
            server.stop()


@contextmanager
def permissions_checked() -> Iterator[None]:
    """Let the stand-in refuse what the policies of a role do not allow. It ignores their conditions."""
    with patch.object(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0):
        yield
