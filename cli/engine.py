"""`reentry engine`: builds a TensorRT engine on the node that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import DEFAULT_REPOSITORY, ModelName, RepositoryFolder
from reentry.schema import REENTRY_LSTM

engine = typer.Typer(
    no_args_is_help=True,
    help="Build a TensorRT engine for the GPU of a node: prepare, run build.sh in Triton's image, install.",
    epilog="Example: `reentry engine prepare --repository /models --work /work`, see docs/tensorrt.md",
)
_Work = Annotated[Path, typer.Option(help="Folder that all three steps share.")]


@engine.command()
def prepare(
    work: _Work,
    repository: RepositoryFolder = Path(DEFAULT_REPOSITORY),
    model: ModelName = REENTRY_LSTM.name,
    fp16: Annotated[bool, typer.Option("--fp16", help="Allow TensorRT 10 to use half precision.")] = False,
) -> None:
    """Copy the repository, compute the expected answers for test flights, and write build.sh.

    Example: `reentry engine prepare --repository /models --work /work`
    """
    from export.tensorrt.config import TensorRTConfig
    from export.tensorrt.node import files_in
    from export.tensorrt.node import prepare as prepare_engine

    with files_in(work):
        version = prepare_engine(repository, work, TensorRTConfig(fp16=fp16), model)
    typer.echo(f"version {version}: now run {work / 'build.sh'} on a machine with trtexec and the GPU")


@engine.command()
def install(
    work: _Work,
    model: ModelName = REENTRY_LSTM.name,
    keep: Annotated[
        Path | None, typer.Option(help="Model repository that stores the engine for other nodes with this GPU.")
    ] = None,
) -> None:
    """Compare the engine's answers with those of its graph, and let the copy serve the engine if they agree.

    Example: `reentry engine install --work /work --keep /models`
    """
    from export.tensorrt.node import files_in
    from export.tensorrt.node import install as install_engine

    with files_in(work):
        report = install_engine(work, keep, model)
    typer.echo(
        f"version {report['version']} is served as a TensorRT engine for {report['gpu']}: "
        f"{report['changed_phases']} of {report['steps']} steps in another phase, "
        f"onsets within {report['largest_onset_move']} steps, probabilities within {report['max_difference']:.1e}"
    )
