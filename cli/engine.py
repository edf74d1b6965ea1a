"""`reentry engine`: a TensorRT engine made on the node that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

engine = typer.Typer(
    no_args_is_help=True,
    help="Compile the pinned version for the GPU of a node: prepare, run build.sh in Triton's image, install.",
    epilog="Example: `reentry engine prepare --repository /models --work /work`, see docs/tensorrt.md",
)
_Work = Annotated[Path, typer.Option(help="A folder that all three steps share.")]


@engine.command()
def prepare(
    work: _Work,
    repository: Annotated[Path, typer.Option(help="The Triton model repository.")] = Path("model_repository"),
    fp16: Annotated[bool, typer.Option("--fp16", help="Let TensorRT 10 choose half precision.")] = False,
) -> None:
    """Copy the repository, compute what flights must be answered, and write build.sh.

    Example: `reentry engine prepare --repository /models --work /work`
    """
    from export.tensorrt.config import TensorRTConfig
    from export.tensorrt.node import files_in
    from export.tensorrt.node import prepare as prepare_engine

    with files_in(work):
        version = prepare_engine(repository, work, TensorRTConfig(fp16=fp16))
    typer.echo(f"version {version}: now run {work / 'build.sh'} where trtexec and the GPU are")


@engine.command()
def install(
    work: _Work,
    keep: Annotated[
        Path | None, typer.Option(help="A model repository that keeps the engine for other nodes with this GPU.")
    ] = None,
) -> None:
    """Compare what the engine answered with its graph; the copy serves it only if they agree.

    Example: `reentry engine install --work /work --keep /models`
    """
    from export.tensorrt.node import files_in
    from export.tensorrt.node import install as install_engine

    with files_in(work):
        report = install_engine(work, keep)
    typer.echo(
        f"version {report['version']} is served as a TensorRT engine for {report['gpu']}: "
        f"{report['changed_phases']} of {report['steps']} steps in another phase, "
        f"onsets within {report['largest_onset_move']} steps, probabilities within {report['max_difference']:.1e}"
    )
