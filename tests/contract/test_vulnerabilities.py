"""The gate over recorded reports of vulnerabilities, `k8s/scripts/vulnerabilities.py`.

Trivy does not run here. `reports/trivy_image.json` was written by hand after Trivy's documented schema, version 2. The
reports of pip-audit are written by its own formatter.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from pip_audit._format import JsonFormat
from pip_audit._service import Dependency, ResolvedDependency, SkippedDependency, VulnerabilityResult

from tests.contract.manifests import K8S

SCRIPT = K8S / "scripts" / "vulnerabilities.py"
IMAGE_REPORT = Path(__file__).parent / "reports" / "trivy_image.json"
TODAY = "2026-12-01"

ENTRY = """\
# owner: platform team
# reason: nothing in the image calls the parser
# where: cpu, gateway
CVE-2099-0001 exp:2027-01-31
"""


def decide(
    folder: Path, ignored: str, place: str = "gateway", report: Path = IMAGE_REPORT, today: str = TODAY
) -> subprocess.CompletedProcess[str]:
    """Run the gate with an ignore file of this text."""
    ignore_file = folder / "ignored"
    ignore_file.write_text(ignored)
    return subprocess.run(
        [sys.executable, SCRIPT, place, report, "--ignore-file", ignore_file, "--today", today],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def image_report(folder: Path, result: dict[str, Any]) -> Path:
    """Write the recorded report with one result more."""
    report = json.loads(IMAGE_REPORT.read_text())
    report["Results"].append(result)
    path = folder / "image.json"
    path.write_text(json.dumps(report))
    return path


def lock_report(folder: Path, found: dict[Dependency, list[VulnerabilityResult]]) -> Path:
    """Write a report of pip-audit."""
    path = folder / "audit.json"
    path.write_text(JsonFormat(output_desc=True, output_aliases=True).format(found, []))
    return path


def vulnerability(identifier: str, *aliases: str) -> VulnerabilityResult:
    return VulnerabilityResult(
        id=identifier, description="", fix_versions=[Version("4.1")], aliases=set(aliases), published=None
    )


PACKAGE = ResolvedDependency("examplelib", Version("4.0"))


def test_only_a_critical_finding_with_a_fix_fails(tmp_path: Path) -> None:
    done = decide(tmp_path, "")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {IMAGE_REPORT}: CVE-2099-0001 in libexample1 1.2.3-1, fixed in 1.2.3-1+deb12u1;")


def test_a_complete_entry_accepts_a_finding_where_it_applies(tmp_path: Path) -> None:
    done = decide(tmp_path, ENTRY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "to fix: 0, accepted: 1" in done.stdout


def test_the_example_of_the_guide_is_a_complete_entry(tmp_path: Path) -> None:
    guide = (K8S.parent / "docs" / "supply-chain.md").read_text()
    (example,) = [block for block in guide.split("```") if "# owner:" in block]
    assert decide(tmp_path, example.removeprefix("text")).returncode == 0


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("# owner: platform team\n", "", "no owner"),
        ("# reason: nothing in the image calls the parser\n", "", "no reason"),
        ("# where: cpu, gateway\n", "", "no where"),
        ("# owner: platform team", "# owner:", "no owner"),
        (" exp:2027-01-31", "", "no expiry date"),
        ("2027-01-31", "2027-02-30", "invalid expiry date 2027-02-30"),
        ("2027-01-31", "2026-11-30", "expired on 2026-11-30"),
        ("cpu, gateway", "gateway, server", "unknown place server"),
        ("# where: cpu, gateway\n", "# where: cpu, gateway\n\n", "no owner"),
    ],
)
def test_an_incomplete_or_expired_entry_is_a_fault_and_accepts_nothing(
    tmp_path: Path, right: str, wrong: str, fault: str
) -> None:
    assert right in ENTRY
    text = ENTRY.replace(right, wrong)
    done = decide(tmp_path, text)
    assert done.returncode == 1
    assert f"ignored:{len(text.splitlines())}: CVE-2099-0001: {fault}" in done.stderr
    assert "CVE-2099-0001 in libexample1" in done.stderr


@pytest.mark.parametrize(("today", "status"), [("2027-01-30", 0), ("2027-01-31", 1)])
def test_an_entry_ends_at_the_beginning_of_its_date(tmp_path: Path, today: str, status: int) -> None:
    assert decide(tmp_path, ENTRY, today=today).returncode == status


def test_each_entry_needs_an_owner_of_its_own(tmp_path: Path) -> None:
    done = decide(tmp_path, f"{ENTRY}CVE-2099-0004 exp:2027-01-31\n")
    assert done.returncode == 1
    assert "ignored:5: CVE-2099-0004: no owner" in done.stderr


def test_an_entry_for_another_place_accepts_nothing_here_and_need_not_match_here(tmp_path: Path) -> None:
    done = decide(tmp_path, ENTRY, place="client")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "CVE-2099-0001 in libexample1" in line


@pytest.mark.parametrize("identifier", ["CVE-2099-0002", "CVE-2099-0003", "CVE-2099-9999"])
def test_an_entry_that_matches_no_finding_of_its_place_is_a_fault(tmp_path: Path, identifier: str) -> None:
    """A finding without a fix and one that is not critical need no entry."""
    done = decide(tmp_path, ENTRY + ENTRY.replace("CVE-2099-0001", identifier))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"ignored:8: {identifier}: not found in gateway" in line


def test_a_critical_secret_in_an_image_fails(tmp_path: Path) -> None:
    secret = {"RuleID": "private-key", "Severity": "CRITICAL", "Title": "Asymmetric private key"}
    report = image_report(tmp_path, {"Target": "/tmp/key", "Class": "secret", "Secrets": [secret]})
    done = decide(tmp_path, ENTRY, report=report)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "private-key in /tmp/key: Asymmetric private key" in line


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"SchemaVersion": 2, "Results": []}', "no packages of the operating system are listed"),
        ('{"SchemaVersion": 3, "Results": []}', "unknown format"),
        ('{"SchemaVersion": 2, "Resul', "Unterminated string"),
        (None, "No such file"),
    ],
)
def test_a_report_that_is_not_complete_fails(tmp_path: Path, text: str | None, fault: str) -> None:
    report = tmp_path / "report.json"
    if text is not None:
        report.write_text(text)
    done = decide(tmp_path, "", report=report)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {report}: ")
    assert fault in line


def test_any_vulnerability_of_the_lock_fails_without_an_entry(tmp_path: Path) -> None:
    report = lock_report(tmp_path, {PACKAGE: [vulnerability("PYSEC-2099-1", "CVE-2099-0001")]})
    done = decide(tmp_path, "", "lock", report)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "PYSEC-2099-1 in examplelib 4.0, fixed in 4.1" in line


def test_one_entry_accepts_a_vulnerability_of_an_image_and_by_its_alias_of_the_lock(tmp_path: Path) -> None:
    entry = ENTRY.replace("cpu, gateway", "gateway, lock")
    report = lock_report(tmp_path, {PACKAGE: [vulnerability("PYSEC-2099-1", "CVE-2099-0001")]})
    assert decide(tmp_path, entry, "lock", report).returncode == 0
    assert decide(tmp_path, entry, "gateway").returncode == 0


def test_a_lock_without_findings_passes_and_its_entries_are_faults(tmp_path: Path) -> None:
    report = lock_report(tmp_path, {PACKAGE: []})
    assert decide(tmp_path, ENTRY, "lock", report).returncode == 0
    done = decide(tmp_path, ENTRY.replace("cpu", "lock"), "lock", report)
    assert done.returncode == 1
    assert "CVE-2099-0001: not found in lock" in done.stderr


def test_a_package_of_the_lock_that_was_not_examined_fails(tmp_path: Path) -> None:
    report = lock_report(tmp_path, {SkippedDependency("examplelib", "not on the index"): []})
    done = decide(tmp_path, "", "lock", report)
    assert done.returncode == 1
    assert "examplelib was not examined: not on the index" in done.stderr
