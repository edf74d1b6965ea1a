"""The page on requests: its examples run against a real server, and its tables are those of the schema."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from reentry import schema
from reentry.serving import EmbeddedServer
from reentry.simulation import TrapezoidConfig, simulate_trapezoid

ROOT = Path(__file__).parents[2]
PAGE, README = (ROOT / "docs/requests.md").read_text(), (ROOT / "README.md").read_text()


def examples(kind: str, text: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


PYTHON, SHELL = examples("python", PAGE), examples("sh", PAGE)


def of_server(example: str, server: EmbeddedServer) -> str:
    """The example with the server's own ports in place of the usual ones."""
    moved = example.replace("127.0.0.1:8000", server.http_url).replace("127.0.0.1:8001", server.grpc_url)
    assert moved != example
    return moved


def run(command: list[str], folder: Path) -> str:
    simulate_trapezoid(TrapezoidConfig(tracks=2, shortest=30, longest=60, seed=3, labels=False)).to_csv(
        folder / "test.csv", index=False
    )
    (folder / "data").symlink_to(folder)
    (folder / "artifacts").symlink_to(folder)
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(header: str, page: str = PAGE) -> list[list[str]]:
    """Cells of the table whose header begins so."""
    table = page[page.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]


def datatype(tensor: schema.Tensor) -> str:
    """What the protocol calls the type; config.pbtxt has another name for text."""
    return {"STRING": "BYTES"}.get(tensor.dtype, tensor.dtype)


def test_the_page_has_an_example_for_each_client() -> None:
    assert len(PYTHON) == 3
    assert len(SHELL) == 1


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_readme_example_runs_over_both_transports(server: EmbeddedServer, tmp_path: Path, transport: str) -> None:
    (example,) = examples("python", README)
    if transport == "grpc":  # as its comment says
        example = example.replace("tritonclient.http", "tritonclient.grpc").replace("127.0.0.1:8000", "127.0.0.1:8001")
    printed = run([sys.executable, "-c", of_server(example, server)], tmp_path)
    assert re.match(r"\(1, \d+\) \[\[-?\d+]] \[\[", printed)


def test_the_readme_has_the_inputs_of_the_schema_with_their_columns_in_order() -> None:
    table = rows("| tensor | type and shape |", README)
    assert [(name, form.split()[0]) for name, form, _ in table] == [(t.name, t.dtype) for t in schema.ENSEMBLE.inputs]
    assert tuple(re.findall(r"`(\w+)`", "`" + table[-1][2])) == schema.MEASUREMENT_COLUMNS


def test_the_client_scores_a_table(server: EmbeddedServer, tmp_path: Path) -> None:
    printed = run([sys.executable, "-c", of_server(PYTHON[0], server)], tmp_path)
    for column in ("onset_row", "model_version", "reentry_probability", "reentry_phase", "reason"):
        assert column in printed


@pytest.mark.parametrize("example", PYTHON[1:], ids=["http", "grpc"])
def test_the_tritonclient_examples_get_an_answer(server: EmbeddedServer, tmp_path: Path, example: str) -> None:
    printed = run([sys.executable, "-c", of_server(example, server)], tmp_path)
    lengths = pd.read_csv(tmp_path / "test.csv")["track_id"].value_counts()
    shape = (1, lengths[0]) if "http" in example else (2, lengths.max())
    assert printed.startswith(str(shape))


def test_the_curl_example_gets_an_answer(server: EmbeddedServer, tmp_path: Path) -> None:
    answer = json.loads(run(["sh", "-ec", of_server(SHELL[0], server)], tmp_path))
    assert {(each["name"], each["datatype"], tuple(each["shape"])) for each in answer["outputs"]} == {
        (tensor.name, datatype(tensor), (1, *(3 if size == -1 else size for size in tensor.dims)))
        for tensor in schema.ENSEMBLE.outputs
    }


def test_the_served_configuration_gives_the_order_of_the_columns(server: EmbeddedServer, tmp_path: Path) -> None:
    config = json.loads(run(["curl", "--silent", f"http://{server.http_url}/v2/models/reentry/config"], tmp_path))
    assert config["parameters"]["measurement_columns"]["string_value"].split(",") == list(schema.MEASUREMENT_COLUMNS)


@pytest.mark.parametrize(
    ("header", "tensors"), [("| input |", schema.ENSEMBLE.inputs), ("| output |", schema.ENSEMBLE.outputs)]
)
def test_the_tables_of_tensors_match_the_schema(header: str, tensors: tuple[schema.Tensor, ...]) -> None:
    def shape(tensor: schema.Tensor) -> str:
        return "[" + ", ".join(["B", *("T" if size == -1 else str(size) for size in tensor.dims)]) + "]"

    assert [cells[:3] for cells in rows(header)] == [[each.name, datatype(each), shape(each)] for each in tensors]


def test_the_table_of_columns_matches_the_schema() -> None:
    table = rows("| column | name |")
    assert [(int(number), name) for number, name, *_ in table] == list(enumerate(schema.MEASUREMENT_COLUMNS))
    declared = {column.name: column for column in schema.TRACK_COLUMNS}
    for _, name, _, span in table:
        column = declared[name]
        if column.low is not None:
            assert span.startswith(f"{column.low:g} to {column.high:g}")


def test_the_limits_on_the_page_match_the_schema() -> None:
    assert f"at most {schema.LONGEST_TRACK:,} steps and a request at most {schema.LARGEST_REQUEST:,}" in PAGE
    assert "-1 without an onset" in PAGE
    assert schema.NO_ONSET_TIMESTAMP == -1.0
