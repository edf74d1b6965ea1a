"""Every error that reentry raises for its users, in one tree.

ReentryError                 base class; the command line prints it as one line on stderr and exits with status 1
├── InputError               an input file or an argument is invalid
│   ├── TrackFileError       a track file cannot be read: missing, empty, binary or without a required column
│   └── ConfigError          a setting is invalid
├── CheckpointError          a checkpoint is invalid, or has another schema version
├── ExportError              the exported graph differs from the trained model, or cannot be installed
├── RepositoryError          a model repository, or a version in it, is invalid or must not be changed
├── LakeError                a table of the data lake is missing, unreachable or unusable
├── ServerError              the embedded Triton server did not start, or stopped unexpectedly
└── ClientError              a Triton server is unreachable, or rejected a request
"""

from __future__ import annotations

from typing import Final

_LONGEST_FIELD: Final = 1_000
"""Maximum number of characters of one field in an error's text, since a server's reason can have any length."""


class ReentryError(Exception):
    """An error that a user can act on: the problem and, if known, where it is, what was expected and got, and a fix.

    The text is a single line of printable characters, so that it is one entry in a log. Long fields are truncated.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem = _line(problem)
        self.where = where
        self.expected = expected
        self.got = got
        self.fix = fix
        fields = [f"{where}: {problem}" if where else problem]
        if expected is not None:
            fields.append(f"expected {expected}")
        if got is not None:
            fields.append(f"got {got}")
        if fix is not None:
            fields.append(f"fix: {fix}")
        super().__init__("; ".join(map(_line, fields)))


def _line(text: str) -> str:
    """Put text on one line, without control characters, truncated to `_LONGEST_FIELD` characters."""
    line = " ".join(text[: 4 * _LONGEST_FIELD].split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return line if len(line) <= _LONGEST_FIELD else f"{line[:_LONGEST_FIELD]} ..."


class InputError(ReentryError):
    """An input file or an argument is invalid."""


class TrackFileError(InputError):
    """A track file cannot be read."""


class ConfigError(InputError):
    """A setting is invalid."""


class CheckpointError(ReentryError):
    """A checkpoint is invalid, or has another schema version."""


class ExportError(ReentryError):
    """The exported graph differs from the trained model, or cannot be installed."""


class RepositoryError(ReentryError):
    """A model repository, or a version in it, is invalid or must not be changed."""


class LakeError(ReentryError):
    """A table of the data lake is missing, unreachable or unusable."""


class ServerError(ReentryError):
    """The embedded Triton server did not start, or stopped unexpectedly."""


class ClientError(ReentryError):
    """A Triton server is unreachable, or rejected a request."""
