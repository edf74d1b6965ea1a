"""Decide on a recorded report of vulnerabilities: fail on every finding that .trivyignore does not accept.

The report is the JSON of `trivy image --format json` or of `pip-audit --format json`. In an image, the critical
vulnerabilities that have a fix count, and the critical secrets. In the lock, every vulnerability counts.

An entry of .trivyignore has the format of Trivy. Comment lines above it name its owner, its reason and the places in
which it applies. It is invalid if one of them or the date is missing, if the date has come, or if nothing matches it.

The script needs only Python's standard library, because `make scan` also runs on machines without .venv.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

PLACES: Final = ("cpu", "gpu", "gateway", "client", "pipeline", "train", "perf", "lock")
"""Targets of Dockerfile.triton, and `lock` for requirements.lock."""

_FIELD: Final = re.compile(r"#\s*(owner|reason|where):\s*(.*\S)\s*")


class ReportError(Exception):
    """A report that is no complete report of Trivy or pip-audit."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A vulnerability of a package, or a secret in an image."""

    ids: frozenset[str]
    """Identifier of the finding and its aliases."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An accepted vulnerability of .trivyignore."""

    id: str
    line: int
    """Number of the entry's line in the file, counted from 1."""
    fields: dict[str, str]
    """Values of `owner`, `reason`, `where` and `exp`, as far as they are given."""

    @property
    def places(self) -> list[str]:
        """Places in which the entry applies."""
        return self.fields.get("where", "").replace(",", " ").split()

    def faults(self, today: date) -> Iterator[str]:
        """Yield what is missing or invalid, on a day in UTC."""
        for name in ("owner", "reason", "where"):
            if name not in self.fields:
                yield f"no {name}; fix: add a line `# {name}: ...` above the entry"
        for place in self.places:
            if place not in PLACES:
                yield f"unknown place {place}; expected some of {', '.join(PLACES)}"
        try:
            expiry = date.fromisoformat(self.fields["exp"])
        except KeyError:
            yield "no expiry date; fix: write `exp:YYYY-MM-DD` behind the identifier"
        except ValueError:
            yield f"invalid expiry date {self.fields['exp']}; expected YYYY-MM-DD"
        else:
            # Trivy, too, ends an entry at the beginning of this day in UTC.
            if expiry <= today:
                yield f"expired on {expiry}; fix: update the package, or review the entry and give it a later date"


def entries(text: str) -> Iterator[Entry]:
    """Yield the entries of an ignore file, each with the fields of the comment lines directly above it."""
    fields: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if field := _FIELD.fullmatch(line):
            fields[field[1]] = field[2]
        elif not line.startswith("#"):
            if line:
                identifier, *words = line.split()
                dates = dict(word.split(":", 1) for word in words if word.startswith("exp:"))
                yield Entry(id=identifier, line=number, fields=fields | dates)
            fields = {}


def findings(report: dict[str, Any]) -> Iterator[Finding]:
    """Yield the findings of a report that must be fixed or accepted."""
    if report.get("SchemaVersion") == 2:
        yield from _of_an_image(report.get("Results") or [])
    elif "dependencies" in report:
        yield from _of_the_lock(report["dependencies"])
    else:
        raise ReportError("unknown format; expected JSON of trivy (SchemaVersion 2) or pip-audit")


def _of_an_image(results: list[dict[str, Any]]) -> Iterator[Finding]:
    if not any(result.get("Class") == "os-pkgs" for result in results):
        raise ReportError("no packages of the operating system are listed; expected a report of a whole image")
    for result in results:
        for found in result.get("Vulnerabilities") or []:
            if found["Severity"] == "CRITICAL" and found.get("FixedVersion"):
                text = f"{found['PkgName']} {found['InstalledVersion']}, fixed in {found['FixedVersion']}"
                yield Finding(
                    ids=frozenset({found["VulnerabilityID"]}),
                    text=f"{found['VulnerabilityID']} in {text}; fix: update it",
                )
        for found in result.get("Secrets") or []:
            if found["Severity"] == "CRITICAL":
                text = f"{found['RuleID']} in {result['Target']}: {found['Title']}; fix: remove and replace the secret"
                yield Finding(ids=frozenset({found["RuleID"]}), text=text)


def _of_the_lock(dependencies: list[dict[str, Any]]) -> Iterator[Finding]:
    for package in dependencies:
        if "skip_reason" in package:
            raise ReportError(f"{package['name']} was not examined: {package['skip_reason']}")
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version"
            text = f"{found['id']} in {package['name']} {package['version']}, fixed in {fixed}; fix: update it"
            yield Finding(ids=frozenset({found["id"], *found.get("aliases", ())}), text=text)


def faults(place: str, found: list[Finding], accepted: list[Entry], today: date) -> Iterator[tuple[int | None, str]]:
    """Yield each finding that no entry accepts, and each invalid entry with the number of its line."""
    valid = set()
    for entry in accepted:
        invalid = [f"{entry.id}: {fault}" for fault in entry.faults(today)]
        if not invalid and place in entry.places:
            if any(entry.id in finding.ids for finding in found):
                valid.add(entry.id)
            else:
                invalid = [f"{entry.id}: not found in {place}; fix: remove {place} or the whole entry"]
        yield from ((entry.line, fault) for fault in invalid)
    for finding in found:
        if not finding.ids & valid:
            yield None, finding.text


def main() -> None:
    """Print the faults on standard error and exit with status 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", choices=PLACES, help="what was examined: the target of an image, or lock")
    parser.add_argument("report", type=Path, help="JSON report of trivy or pip-audit")
    parser.add_argument("--ignore-file", type=Path, default=Path(".trivyignore"), metavar="FILE")
    parser.add_argument(
        "--today",
        type=date.fromisoformat,
        default=datetime.now(UTC).date(),
        metavar="YYYY-MM-DD",
        help="decide as on this day, to see what is about to expire; default: today in UTC",
    )
    options = parser.parse_args()
    try:
        found = list(findings(json.loads(options.report.read_text(encoding="utf-8"))))
        accepted = list(entries(options.ignore_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ReportError) as error:
        sys.exit(f"error: {options.report}: {error}")
    wrong = list(faults(options.place, found, accepted, options.today))
    for line, fault in wrong:
        where = options.report if line is None else f"{options.ignore_file}:{line}"
        print(f"error: {where}: {fault}", file=sys.stderr)
    if wrong:
        sys.exit(1)
    print(f"{options.report}: findings to fix: 0, accepted: {len(found)}")


if __name__ == "__main__":
    main()
