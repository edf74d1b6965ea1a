"""Terraform of `infra/`: format, types, its own tests, an apply to a stand-in for AWS, and who may do what then."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from subprocess import Popen

import pytest
import yaml
from botocore.exceptions import ClientError

from tests.contract.cloud import ACCOUNT, permissions_checked
from tests.contract.environment import (
    ACCESS,
    NAME,
    REGION,
    ROLES,
    SECRET,
    SETTINGS,
    Applied,
    arn,
    bucket,
    secrets,
    start_applying,
)
from tests.contract.manifests import K8S
from tests.contract.policies import decide
from tests.contract.terraform import INFRA, Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of `infra/` whose provider agrees with the lock."""
    workspace = Workspace(tmp_path_factory.mktemp("terraform"))
    workspace.run("init", "-backend=false", "-input=false", "-lockfile=readonly")
    return workspace


@pytest.fixture(scope="module", autouse=True)
def applying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Workspace, Popen[str]]]:
    """An apply in the background: most of its time it waits, as it must for AWS, while the first tests run."""
    with start_applying(tmp_path_factory.mktemp("applied")) as running:
        yield running


@pytest.fixture(scope="module")
def applied(applying: tuple[str, Workspace, Popen[str]]) -> Applied:
    """The environment, once it is there."""
    url, workspace, apply = applying
    assert apply.wait(timeout=900) == 0, workspace.log.read_text()[-5000:]
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


def test_the_readme_names_every_module_and_role(applied: Applied) -> None:
    page = (INFRA / "README.md").read_text()
    for name in (*(path.name for path in (INFRA / "modules").iterdir()), *ROLES):
        assert f"| `{name}` |" in page


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
        assert rules["current"]["Expiration"].get("Days") == (14 if purpose == "landing" else None)


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


@pytest.mark.parametrize(("role", "call", "purpose", "key", "allowed"), ACCESS)
def test_the_policies_say_the_same_with_their_conditions(
    applied: Applied, role: str, call: str, purpose: str, key: str, allowed: bool
) -> None:
    resource = f"arn:aws:s3:::{bucket(purpose)}/{key}"
    context = {"aws:PrincipalArn": arn(role), "aws:SecureTransport": "true", "s3:TlsVersion": "1.3"}
    policy = applied.resources[f'module.store.module.bucket["{purpose}"].aws_s3_bucket_policy.this']["policy"]
    assert (decide(applied.policy(role), f"s3:{call}", resource, context) is True) == allowed
    assert decide(policy, f"s3:{call}", resource, context) in ((None,) if allowed else (None, False))


@pytest.mark.parametrize(
    ("call", "context"),
    [
        ("GetObject", {"aws:SecureTransport": "false"}),
        ("GetObject", {"aws:SecureTransport": "true", "s3:TlsVersion": "1.1"}),
        ("PutObject", {"s3:x-amz-server-side-encryption": "AES256"}),
        ("DeleteObjectVersion", {"aws:PrincipalArn": "arn:aws:iam::333333333333:role/administrator"}),
    ],
)
def test_a_bucket_denies_even_administrators(applied: Applied, call: str, context: dict[str, str]) -> None:
    for purpose in ("landing", "lake", "models", "mlflow", "jobs"):
        policy = applied.resources[f'module.store.module.bucket["{purpose}"].aws_s3_bucket_policy.this']["policy"]
        assert decide(policy, f"s3:{call}", f"arn:aws:s3:::{bucket(purpose)}/raw/part", context) is False


def test_a_role_lists_its_own_buckets_only(applied: Applied) -> None:
    listed = {
        (role, purpose)
        for role in ROLES
        for purpose in ("landing", "lake", "models", "mlflow", "jobs", "logs")
        if decide(applied.policy(role), "s3:ListBucket", f"arn:aws:s3:::{bucket(purpose)}")
    }
    lake = {(role, "lake") for role in ROLES} - {
        (role, "lake") for role in ("serve", "gateway", "secrets", "sender", "delivery")
    }
    assert listed == lake | {
        *(("ingest", "landing"), ("train", "models"), ("train", "mlflow"), ("score", "models"), ("serve", "models")),
        ("maintain", "models"),
        *(
            ("gateway", "jobs"),
            ("privacy-officer", "landing"),
            ("privacy-officer", "jobs"),
            ("privacy-officer", "mlflow"),
        ),
    }


@pytest.mark.parametrize(
    ("key", "users"),
    [
        ("pseudonym", {"ingest", "privacy-officer"}),
        ("secrets", {"secrets"}),
        ("data", {*ROLES} - {"secrets", "delivery"}),
        ("platform", set()),
    ],
)
def test_a_key_decrypts_for_its_users_only(applied: Applied, key: str, users: set[str]) -> None:
    values = applied.resources[f'module.keys["{key}"].aws_kms_key.this']
    service = "s3" if key == "data" else "secretsmanager"
    for role in ROLES:
        context = {"aws:PrincipalArn": arn(role), "kms:ViaService": f"{service}.{REGION}.amazonaws.com"}
        both = [
            decide(policy, "kms:Decrypt", values["arn"], context) for policy in (values["policy"], applied.policy(role))
        ]
        assert (both == [True, True]) == (role in users), role
        assert decide(values["policy"], "kms:Decrypt", values["arn"], {"aws:PrincipalArn": arn(role)}) is None


def test_a_role_that_only_reads_cannot_encrypt(applied: Applied) -> None:
    data = applied.resources['module.keys["data"].aws_kms_key.this']["arn"]
    encrypting = {role for role in ROLES if decide(applied.policy(role), "kms:GenerateDataKey", data)}
    reading = {"serve", "analyst", "monitor", "secrets", "delivery"}
    assert encrypting == {*ROLES} - reading


def test_an_administrator_reads_the_secrets_that_terraform_writes_and_no_pseudonym_key(applied: Applied) -> None:
    administrator = {
        "aws:PrincipalArn": "arn:aws:iam::333333333333:role/administrator",
        "kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com",
    }
    for name, key, read in (
        ("gateway", "secrets", True),
        ("control", "secrets", True),
        ("pseudonym-keys", "pseudonym", None),
    ):
        policy = applied.resources[f'module.keys["{key}"].aws_kms_key.this']["policy"]
        denied = applied.resources[f'module.secrets.aws_secretsmanager_secret_policy.this["{name}"]']["policy"]
        assert decide(policy, "kms:Decrypt", "*", administrator) is read
        assert decide(denied, "secretsmanager:GetSecretValue", "*", administrator) is (None if read else False)


def test_only_ingestion_and_the_privacy_officer_read_the_pseudonym_keys_and_only_the_latter_writes_them(
    applied: Applied,
) -> None:
    secret = applied.resources['module.secrets.aws_secretsmanager_secret.this["pseudonym-keys"]']["arn"]
    readers, writers = {"ingest", "privacy-officer"}, {"privacy-officer"}
    calls = (("GetSecretValue", readers), ("PutSecretValue", writers), ("UpdateSecretVersionStage", writers))
    for call, users in calls:
        allowed = {role for role in ROLES if decide(applied.policy(role), f"secretsmanager:{call}", secret)}
        assert allowed == users


def test_a_service_account_of_the_pipeline_has_a_role(applied: Applied) -> None:
    trusted = {
        subject
        for address, values in applied.resources.items()
        if ".aws_iam_role.workload" in address
        for subject in re.findall(r"system:serviceaccount:([\w:-]+)", values["assume_role_policy"])
    }
    accounts = set()
    for folder in ("pipeline/cron", "pipeline/features", "bulk"):
        namespace = yaml.safe_load((K8S / folder / "kustomization.yaml").read_text())["namespace"]
        documents = [each for path in (K8S / folder).glob("*.yaml") for each in yaml.safe_load_all(path.read_text())]
        named = [each["metadata"]["name"] for each in documents if each.get("kind") == "ServiceAccount"]
        accounts |= {f"{namespace}:{name}" for name in named}
    assert len(accounts) >= 6
    assert accounts <= trusted
    assert {"reentry:reentry", "reentry:reentry-gateway", "reentry:reentry-secrets"} <= trusted


CLAIMS = {
    "aud": "sts.amazonaws.com",
    "sub": "repo:example/reentry:environment:production",
    "ref": "refs/heads/main",
}


@pytest.mark.parametrize(
    "changed",
    [
        {"sub": "repo:example/other:environment:production"},
        {"sub": "repo:stranger/reentry:environment:production"},
        {"sub": "repo:example/reentry:environment:staging"},
        {"sub": "repo:example/reentry:ref:refs/heads/main"},
        {"sub": "repo:example/reentry:pull_request"},
        {"ref": "refs/heads/feature"},
        {"ref": "refs/tags/main"},
        {"aud": "https://github.com/example"},
    ],
)
def test_only_a_job_of_the_repository_environment_and_branch_delivers(
    applied: Applied, changed: dict[str, str]
) -> None:
    trust = applied.resources["module.identity.aws_iam_role.delivery"]["assume_role_policy"]
    for claims, trusted in ((CLAIMS, True), ({**CLAIMS, **changed}, None)):
        context = {f"token.actions.githubusercontent.com:{name}": value for name, value in claims.items()}
        assert decide(trust, "sts:AssumeRoleWithWebIdentity", context=context) is trusted


def test_the_delivery_pushes_images_and_finds_the_cluster_and_nothing_else(applied: Applied) -> None:
    allowed = {
        action
        for statement in json.loads(applied.policy("delivery"))["Statement"]
        for action in statement["Action"]
        if decide(applied.policy("delivery"), action, "arn:aws:s3:::anything") is True
    }
    assert allowed == {"ecr:GetAuthorizationToken"}
    repository = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/reentry-triton"
    assert decide(applied.policy("delivery"), "ecr:PutImage", repository) is True
    assert decide(applied.policy("delivery"), "ecr:DeleteRepository", repository) is None


def test_a_privacy_officer_needs_a_second_factor(applied: Applied) -> None:
    trust = applied.resources['module.identity.aws_iam_role.workload["privacy-officer"]']["assume_role_policy"]
    assert decide(trust, "sts:AssumeRole", context={"aws:MultiFactorAuthPresent": "true"}) is True
    assert decide(trust, "sts:AssumeRole") is None
