"""What make installs before `make run`, and before the targets that check the code."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract.makefile import ROOT, make

EXTRAS = "--constraint requirements.lock --override lock-overrides.txt --editable '.[client,train,export,serve]'"
LOCK = "--no-deps --requirements requirements.lock"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Folder with the Makefile and the lock, without an environment."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def installs(checkout: Path, target: str) -> list[str]:
    """Return what make would install with uv."""
    done = make("--dry-run", target, folder=checkout)
    assert done.returncode == 0, done.stderr
    return [
        " ".join(line.split())
        for line in re.findall(r"/uv pip install --quiet --python \S+ (.+)", done.stdout.replace("\\\n", ""))
    ]


def test_a_first_run_installs_only_its_extras_in_the_locked_versions(checkout: Path) -> None:
    assert installs(checkout, "run") == [EXTRAS]


@pytest.mark.parametrize(
    "target", ["setup", "lint", "test", "test-unit", "fuzz", "load-test", "stalls", "matrix", "infra-test"]
)
def test_the_other_targets_install_the_whole_lock(checkout: Path, target: str) -> None:
    assert installs(checkout, target) == [EXTRAS, LOCK]


def test_nothing_is_installed_twice(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".run").touch()
    assert installs(checkout, "run") == []
    assert installs(checkout, "setup") == [LOCK]
    (checkout / ".venv" / ".ready").touch()
    assert installs(checkout, "setup") == installs(checkout, "run") == []


def test_a_changed_lock_is_installed(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    for name in (".run", ".ready"):
        (checkout / ".venv" / name).touch()
        os.utime(checkout / ".venv" / name, (0, 0))
    assert installs(checkout, "run") == [EXTRAS]
    assert installs(checkout, "setup") == [EXTRAS, LOCK]


def requirements(name: str, extra: str, found: set[tuple[str, str]]) -> None:
    """Add the installed packages that an extra of a package requires, and theirs."""
    if (canonicalize_name(name), extra) in found:
        return
    found.add((canonicalize_name(name), extra))
    for line in requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for each in ("", *requirement.extras):
                requirements(requirement.name, each, found)


def imported(package: str) -> set[str]:
    """Return the names of the top-level modules that a package of this project imports."""
    names = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module).split(".")[0])
    return names


def test_the_extras_of_a_run_contain_all_that_its_code_imports_except_for_the_store_in_s3() -> None:
    found: set[tuple[str, str]] = set()
    for extra in re.findall(r"\[([a-z,]+)\]", EXTRAS)[0].split(","):
        requirements("reentry", extra, found)
    names = {name for name, _ in found}
    provided = {
        module
        for module, owners in packages_distributions().items()
        if names & {canonicalize_name(owner) for owner in owners}
    }
    used = set().union(*map(imported, ("reentry", "registry", "client", "training", "export")))
    # Triton itself provides the module of its Python models.
    assert used - provided - sys.stdlib_module_names == {"botocore", "s3fs", "triton_python_backend_utils"}
    assert names.isdisjoint({"redis", "psycopg", "moto", "pytest"})
