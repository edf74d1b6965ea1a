"""Reference of all commands as a Markdown page, made from the help of the Typer app.

Renew the page with `python -m cli.reference > docs/cli.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import typer

from cli import app

_HEADER = """\
# Command line

<!-- Generated from the help texts; renew with: python -m cli.reference > docs/cli.md -->

The exit status is 0 for success, 1 for an error, 2 for wrong usage, and 130 after an interruption by Ctrl-C. Options of
`reentry` itself stand before the command: `reentry --quiet predict data/test.csv`.
"""


def reference() -> str:
    """Return the page, with one section for each command and subcommand."""
    command = typer.main.get_command(app)
    return _HEADER + "".join(_sections(command, typer.Context(command, info_name="reentry"), level=2))


def _sections(command: Any, context: Any, *, level: int) -> Iterator[str]:
    yield f"\n{'#' * level} {context.command_path}\n\n{command.help.strip()}\n"
    if command.epilog:
        yield f"\n{command.epilog}\n"
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each.get_help_record(context) for each in command.params if each.param_type_name == "option"]
    yield from _table(
        "argument",
        ((each.metavar or each.name.upper(), each.help + "  [required]" * each.required) for each in arguments),
    )
    yield from _table("option", filter(None, options))
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from _sections(subcommand, type(context)(subcommand, info_name=name, parent=context), level=level + 1)


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    cells = [(name.replace("|", r"\|"), meaning.replace("|", r"\|")) for name, meaning in rows]
    if cells:
        yield f"\n| {title} | meaning |\n| --- | --- |\n"
        yield from (f"| `{name}` | {meaning} |\n" for name, meaning in cells)


if __name__ == "__main__":
    typer.echo(reference(), nl=False)
