"""Tests of what all stages share: errors, atomic files, progress, the command line and the direction of imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
import client
import reentry
from reentry import errors
from reentry.errors import ReentryError
from reentry.runtime.files import whole_file
from reentry.runtime.progress import progress

ROOT = Path(reentry.__file__).parent.parent
MAY_IMPORT = {
    "reentry": set(),
    "registry": {"reentry"},
    "client": {"reentry"},
    "gateway": {"client", "registry", "reentry"},
    "training": {"reentry"},
    "export": {"training", "registry", "reentry"},
    "pipeline": {"export", "training", "client", "registry", "reentry"},
    "perf": {"pipeline", "gateway", "export", "training", "client", "registry", "reentry"},
    "cli": {"perf", "pipeline", "gateway", "export", "training", "client", "registry", "reentry"},
}
"""Packages that each package may import: those below it."""


def modules() -> dict[str, Path]:
    """Files of all modules by dotted name."""
    files = [file for package in MAY_IMPORT for file in (ROOT / package).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(module: Path, known: Collection[str]) -> set[str]:
    """Modules of `known` that a file imports, including imports inside functions and for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (below & set(known)) or {node.module}
    return found & set(known)


def imported_by(module: str) -> set[str]:
    """Modules that a new interpreter has loaded after importing `module`."""
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_packages_below_it(package: str) -> None:
    known = modules()
    for name in (name for name in known if name.split(".")[0] == package):
        above = {other.split(".")[0] for other in imports(known[name], known)} - MAY_IMPORT[package] - {package}
        assert not above, f"{name} imports {above}"


def test_there_are_no_import_cycles() -> None:
    known = modules()
    order = TopologicalSorter({name: imports(file, known) - {name} for name, file in known.items()})
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    "module",
    [
        "reentry.schema",
        "reentry.features.track",
        "reentry.decision",
        "reentry.triton.checks",
        "reentry.triton.feature_demand",
        "reentry.triton.telemetry",
    ],
)
def test_modules_that_triton_imports_require_only_numpy(module: str) -> None:
    assert not imported_by(module) & {"torch", "pandas", "typer", "rich", "pyarrow", "onnxruntime"}


def test_importing_the_client_loads_no_heavy_packages() -> None:
    assert not imported_by("client") & {"pandas", "numpy", "tritonclient", "pyarrow"}
    with pytest.raises(AttributeError, match="module 'client' has no attribute 'Other'"):
        client.Other  # noqa: B018


def test_importing_the_command_line_loads_no_heavy_packages() -> None:
    assert not imported_by("cli") & {"torch", "pandas", "numpy", "tritonclient", "matplotlib"}


def test_only_the_flow_imports_dagster() -> None:
    known = modules()
    users = {name for name, file in known.items() if imports(file, {"dagster"})}
    assert users
    assert all(name.startswith("pipeline.flows.") for name in users)
    assert not imported_by("cli, pipeline.ingest.ingest, pipeline.clean.build") & {"dagster"}


def test_loading_the_definitions_of_the_flow_loads_no_heavy_packages() -> None:
    loaded = imported_by("pipeline.flows.definitions")
    assert "dagster" in loaded
    assert not loaded & {"torch", "pandas", "numpy", "pyarrow", "deltalake", "mlflow", "tritonclient"}


def test_the_help_of_every_command_has_an_example() -> None:
    runner = CliRunner()
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands]  # type: ignore[union-attr]
    assert {"simulate", "train", "evaluate", "export", "serve", "predict", "doctor"} <= set(names)
    for name in names:
        shown = runner.invoke(cli.app, [name, "--help"])
        assert shown.exit_code == 0
        assert shown.output.count(f"reentry {name}") >= 2, f"{name} --help shows no example beside its usage"


def test_the_version_option_prints_the_version_of_the_package() -> None:
    shown = CliRunner().invoke(cli.app, ["--version"])
    assert shown.output.strip() == reentry.__version__


def test_a_command_without_its_packages_names_the_extra_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    for name in [name for name in sys.modules if name.startswith("pipeline.lake")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "argv", ["reentry", "lake", "status"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "package deltalake is missing" in line
    assert ".[pipeline]" in line


def test_a_user_error_is_printed_as_one_line_with_exit_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["reentry", "train", "/nowhere/train.csv"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "/nowhere/train.csv" in printed
    assert printed.count("\n") == 1


def test_the_text_of_an_error_has_all_fields_on_one_line() -> None:
    error = ReentryError("column missing", where="a.csv", expected="altitude", got="height\n(m)", fix="rename it")
    assert str(error) == "a.csv: column missing; expected altitude; got height (m); fix: rename it"


def test_the_docstring_of_the_errors_contains_every_error() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert errors.__doc__ is not None
    assert kinds == set(re.findall(r"[A-Z]\w+Error", errors.__doc__))
    assert all(issubclass(getattr(errors, name), ReentryError) for name in kinds)


def test_a_file_appears_under_its_name_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "made" / "report.json"
    with whole_file(target) as part:
        part.write_text("{}")
        assert not target.exists()
    assert target.read_text() == "{}"
    assert [path.name for path in target.parent.iterdir()] == ["report.json"]


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(target) as part:
        part.write_text("half" * (1 // 0))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_progress_in_a_log_is_plain_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("reentry.runtime.progress.SECONDS_BETWEEN_LINES", 0.0)
    with progress("simulating", 2000, "rows") as advance:
        advance(500)
        advance(1000)
    assert caplog.messages == ["simulating: 500 of 2,000 rows", "simulating: 1,500 of 2,000 rows"]


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_progress_on_a_terminal_is_a_bar_unless_information_is_not_logged(
    level: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(level)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress("simulating", 10, "rows") as advance:
        advance(10)
    assert ("simulating" in capsys.readouterr().err) == (level == "INFO")
