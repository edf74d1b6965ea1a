"""The page on the models of live tracks: its examples run on a real server, and its tables are those of the schema."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reentry import schema
from reentry.serving import EmbeddedServer
from tests.conftest import on_free_ports
from tests.integration.test_requests import examples, of_server, rows, run
from tests.live_models import write_live_models

PAGE = (Path(__file__).parents[2] / "docs/live-models.md").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = write_live_models(tmp_path_factory.mktemp("page"))
    with EmbeddedServer(on_free_ports(repository)) as running:
        yield running


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_run(server: EmbeddedServer, tmp_path: Path, number: int) -> None:
    run([sys.executable, "-c", of_server(examples("python", PAGE)[number], server)], tmp_path)


def test_the_page_lists_the_outputs_of_a_single_measurement() -> None:
    table = rows("| output | type | shape | content |", PAGE)
    declared = [tensor for tensor in schema.REENTRY_STREAM.outputs if tensor is not schema.NEXT_STREAM_STATE]
    assert [(name, kind) for name, kind, *_ in table] == [(tensor.name, tensor.dtype) for tensor in declared]
