"""The one logging handler of the command line: plain lines on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipeline.privacy.scrub import ScrubbingFilter

PACKAGES: Final = ("cli", "client", "export", "gateway", "perf", "pipeline", "reentry", "registry", "training")


class _StderrHandler(logging.Handler):
    """Prints information as it is, warnings with the prefix "warning: ", and debug lines with the logger's name."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and record.name.split(".")[0] not in PACKAGES:
            return  # libraries may set a lower level for their own loggers
        prefix = ""
        if record.levelno >= logging.WARNING:
            prefix = f"{record.levelname.lower()}: "
        elif record.levelno <= logging.DEBUG:
            prefix = f"debug: {record.name}: "
        # sys.stderr is read for each line, because rich replaces it while a progress bar is shown.
        print(prefix + self.format(record), file=sys.stderr, flush=True)


@contextmanager
def logs_on_stderr(level: int) -> Iterator[None]:
    """Print the log lines of this project from `level` up, and the warnings of libraries.

    Example:
        with logs_on_stderr(logging.INFO):
            predict_file(config)
    """
    handler = _StderrHandler()
    handler.addFilter(ScrubbingFilter())
    loggers = [logging.getLogger(package) for package in PACKAGES]
    logging.getLogger().addHandler(handler)
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for logger in loggers:
            logger.setLevel(logging.NOTSET)
