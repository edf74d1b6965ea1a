"""Fixtures: a bucket, and a store of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.models import DEFAULT_MODEL, MODELS
from registry.open import open_store
from registry.s3_store import ObjectStore
from registry.store import CONFIG_FILE, VersionStore
from tests.versions import bare_repository


@pytest.fixture
def bucket(moto: str, request: pytest.FixtureRequest) -> str:
    """Name of a new bucket for this test."""
    name = f"bucket-{abs(hash(request.node.nodeid))}"
    ObjectStore(f"s3://{name}", MODELS[DEFAULT_MODEL])._files.mkdir(name)
    return name


def upload(config: str, location: str, model: str = DEFAULT_MODEL) -> VersionStore:
    """Make a repository in an S3-compatible store that holds the config.pbtxt of one model."""
    empty = ObjectStore(location, MODELS[model])
    empty.write(CONFIG_FILE, config, over=empty.read(CONFIG_FILE))
    return open_store(location, model)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> VersionStore:
    """An empty store of each kind."""
    repository = bare_repository(tmp_path)
    if request.param == "folder":
        return open_store(repository)
    config = (repository / DEFAULT_MODEL / CONFIG_FILE).read_text()
    return upload(config, f"s3://{request.getfixturevalue('bucket')}/models/here")
