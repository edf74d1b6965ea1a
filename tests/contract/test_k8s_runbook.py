"""The commands of the runbook work with kubectl, and the deployer role allows them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.contract.api import PLURALS, SHORT, as_live, serving
from tests.contract.manifests import K8S, build, one, program

RUNBOOK = (K8S.parent / "docs" / "runbook.md").read_text()
COMMANDS = sorted({found.split("#")[0].strip() for found in re.findall(r"kubectl -n NS ([^`\n]+)", RUNBOOK)})
NAMES = {
    **{short: PLURALS[kind] for kind, shorts in SHORT.items() for short in shorts},
    **{kind.lower(): plural for kind, plural in PLURALS.items()},
    **{plural: plural for plural in PLURALS.values()},
}
"""Plural of each kind, by every name that kubectl accepts for the kind."""


def verbs(command: str) -> set[tuple[str, str]]:
    """Return the pairs of resource and verb that a kubectl command needs."""
    subcommand, *words = [word for word in command.split() if not word.startswith("-")]
    if subcommand == "rollout":
        verb = {"restart": "patch", "undo": "patch", "status": "watch", "history": "get"}[words[0]]
        return {("deployments", verb), ("deployments", "get"), ("replicasets", "list")}
    if subcommand == "events":
        return {("events", "list")}
    names_a_pod = subcommand == "logs" and "/" not in words[0]
    kinds = {"pods"} if names_a_pod else {NAMES[kind] for kind in words[0].split("/")[0].split(",")}
    if subcommand == "logs":
        return {(kind, "get") for kind in kinds} | {("pods", "list"), ("pods/log", "get")}
    needed = {"get": {"get", "list"}, "describe": {"get", "list"}, "delete": {"delete", "get"}}[subcommand]
    events = {("events", "list")} if subcommand == "describe" else set()
    return {(kind, verb) for kind in kinds for verb in needed} | events


def test_the_runbook_has_commands() -> None:
    assert {command.split()[0] for command in COMMANDS} == {"delete", "describe", "events", "get", "logs", "rollout"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_deployer_role_may_run_the_commands_of_the_runbook(command: str) -> None:
    rules = one("overlays/production", "Role")["rules"]
    allowed = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert verbs(command) <= allowed


def test_commands_outside_the_namespace_mention_the_administrator() -> None:
    outside = [found.start() for found in re.finditer(r"`kubectl (?!-n )", RUNBOOK)]
    assert outside
    for start in outside:
        assert "administrator" in RUNBOOK[start - 40 : start]


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.split()[0] in ("get", "events")])
def test_the_queries_of_the_runbook_work_with_kubectl(command: str, tmp_path: Path) -> None:
    kubectl = program("kubectl")
    version = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, check=True)
    minor = int(json.loads(version.stdout)["clientVersion"]["minor"].rstrip("+"))
    if command.startswith("events") and minor < 26:
        pytest.skip("`kubectl events` needs kubectl 1.26 or later")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reentry-1", "namespace": "reentry"}}
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "reentry-1.17", "namespace": "reentry"}}
    event |= {"reason": "Pulled", "involvedObject": {"kind": "Pod", "name": "reentry-1"}}
    live = [pod, event, *map(as_live, build("overlays/production"))]
    with serving({"all": live}) as api:
        words = [kubectl, "--kubeconfig=/dev/null", f"--server={api}", f"--cache-dir={tmp_path}", "-n", "reentry"]
        result = subprocess.run([*words, *command.split()], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "reentry" in result.stdout
