"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RepositoryFolder = Annotated[Path, typer.Option("--repository", help="Triton model repository, a folder.")]
RepositoryLocation = Annotated[
    str, typer.Option("--repository", help="Triton model repository: a folder or s3://BUCKET/PREFIX.", metavar="PLACE")
]
ModelName = Annotated[str, typer.Option("--model", help="Name of the model in the repository.", metavar="NAME")]
GatewayConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="REENTRY_GATEWAY_CONFIG", help="TOML file with the gateway's settings.", metavar="FILE"
    ),
]
LakeLocation = Annotated[
    str | None, typer.Option("--lake", help="Folder or s3://BUCKET/PREFIX of the tables.", metavar="PLACE")
]
LandingLocation = Annotated[
    str | None, typer.Option("--landing", help="Folder or s3://BUCKET/PREFIX where files arrive.", metavar="PLACE")
]
PipelineConfig = Annotated[
    Path | None,
    typer.Option("--config", envvar="REENTRY_PIPELINE", help="TOML file with a table [pipeline].", metavar="FILE"),
]

DEFAULT_REPOSITORY = "model_repository"
"""Default of `RepositoryFolder` and `RepositoryLocation`."""
