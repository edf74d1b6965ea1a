"""The errors that a user of reentry can meet, one tree.

ReentryError                 caught once by the command line: one line on stderr, exit status 1
├── InputError               what was given cannot be used
│   ├── TrackFileError       a file of tracks as a whole: missing, empty, binary, without a column
│   └── ConfigError          a setting out of its range
├── CheckpointError          not a checkpoint of this program, or of another schema version
├── ExportError              the exported graph is not the trained model
├── RepositoryError          a model repository, or a version in it, cannot be used or changed
├── ServerError              the embedded Triton server did not start, or died
└── ClientError              a Triton server is away, or refused a request
"""

from __future__ import annotations

from typing import Final

_LONGEST_PART: Final = 1_000
"""Characters of one part of an error. A server or a file may give a reason of any length."""


class ReentryError(Exception):
    """An error a user can act on: what is wrong, and where known: the place, what was expected, got, and the fix.

    The text is one line of printable characters, so that a log holds it whole. A part that is too long is cut.
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
        parts = [f"{where}: {problem}" if where else problem]
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {got}")
        if fix is not None:
            parts.append(f"fix: {fix}")
        super().__init__("; ".join(map(_line, parts)))


def _line(text: str) -> str:
    """The text on one line, without control characters, cut to `_LONGEST_PART`."""
    line = " ".join(text[: 4 * _LONGEST_PART].split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return line if len(line) <= _LONGEST_PART else f"{line[:_LONGEST_PART]} ..."


class InputError(ReentryError):
    """What was given cannot be used."""


class TrackFileError(InputError):
    """A file of tracks cannot be used as a whole."""


class ConfigError(InputError):
    """A setting is out of its range."""


class CheckpointError(ReentryError):
    """The file is no checkpoint of this program, or one of another schema version."""


class ExportError(ReentryError):
    """The exported graph differs from the trained model, or cannot be installed."""


class RepositoryError(ReentryError):
    """A model repository, or a version in it, cannot be used, or must not be changed so."""


class ServerError(ReentryError):
    """The embedded Triton server did not start, or died."""


class ClientError(ReentryError):
    """A Triton server is away, or refused a request."""
