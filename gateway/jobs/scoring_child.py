"""Child process that scores the file of one job: `python -m gateway.jobs.scoring_child`.

A process of its own keeps the gateway responsive, because reading a file holds Python's lock for long; it returns its
memory to the system; and a file that exhausts the memory ends only this process.

The first line of standard input is the `Order`. When the file is read, the child reports its rows, and waits for a line
`go` before it scores them. A line `stop` ends the scoring and keeps the results so far. The end of
the input means that the worker is dead, and ends the process at once. Standard output has one JSON object a line, a
`Message`.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import BinaryIO, Final, Literal

import msgspec

from client.control import Control, Progress
from client.predict import PredictConfig, predict_file
from client.retry import RetryConfig
from gateway.jobs.scored_tracks import ScoredTracks
from gateway.logs import log_json
from reentry.errors import ClientError, ReentryError, TrackFileError
from reentry.runtime.files import whole_file
from reentry.tracks import Fault, ReadReport

ARROW_SUFFIX: Final = ".arrows"
"""Suffix of a table as an Arrow stream, which is converted to Parquet before it is read."""

_LARGEST_MEMORY: Final = 4 * 2**30
"""Bytes that the process may allocate. Reading is bounded far below; a crafted file may declare terabytes."""


class Order(msgspec.Struct, kw_only=True):
    """What the child shall do."""

    source: str
    """File of tracks."""
    out: str
    """Folder of the results, and of the journal from which the scoring resumes."""
    tracks: str
    """File for the scored tracks, see `ScoredTracks`."""
    url: str
    """Address of Triton."""
    timeout: float
    patience: float
    """Time without an answer after which the child gives up, s."""


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the child reports: its progress, and its end at last."""

    end: Literal["", "scored", "invalid", "unavailable", "failed", "limited"] = ""
    """Empty before the end. `invalid`: the file cannot be scored. `unavailable`: Triton does not answer. `failed`:
    another error, after which a repetition may succeed. `limited`: the account has to wait for `seconds`."""
    stage: Literal["", "scoring", "writing"] = ""
    rows: int = 0
    tracks: int = 0
    done: int = 0
    refused: int = 0
    model_version: int | None = None
    seconds: float = 0.0
    problem: str = ""
    expected: str | None = None
    got: str | None = None
    where: str | None = None
    fix: str | None = None


class TrackFaults(msgspec.Struct, kw_only=True):
    """One line of `set_aside.jsonl`: a track that was not scored, with all its faults."""

    track_id: int | None
    """None for rows whose track id is unreadable."""
    rows: int
    """Number of rows."""
    reason: str
    faults: list[Fault]


def main() -> None:
    """Score one file."""
    log_json()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not disturb the messages
    encoder = msgspec.json.Encoder()

    def send(message: Message) -> None:
        output.write(encoder.encode(message) + b"\n")
        output.flush()

    source = sys.stdin.buffer
    order = msgspec.json.decode(source.readline(), type=Order)
    scored, may_score = ScoredTracks(), threading.Event()

    def note(progress: Progress) -> None:
        if not progress.done:
            scored.clear()
        send(_message(progress))
        may_score.wait()

    control = Control(
        on_progress=note,
        on_scored=scored.add,
        on_report=lambda report: _write_faults(report, Path(order.out) / "set_aside.jsonl"),
    )
    threading.Thread(target=_listen, args=(source, control, may_score), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_DATA, (_LARGEST_MEMORY, _LARGEST_MEMORY))
    try:
        path = Path(order.source)
        if path.suffix == ARROW_SUFFIX:
            path = _parquet(path, Path(order.out) / "source.parquet")
        config = PredictConfig(
            source=path,
            out=Path(order.out),
            url=order.url,
            timeout=order.timeout,
            retry=RetryConfig(patience=order.patience),
        )
        predict_file(config, control)
        if path.parent == config.out:
            path.unlink()
        scored.write(Path(order.tracks))
    except TrackFileError as error:
        send(_end("invalid", error))
    except MemoryError:  # pyarrow's error is one, too
        problem = f"the file needs more than {_LARGEST_MEMORY >> 30} GiB of memory"
        send(Message(end="invalid", problem=problem, fix="split the file between tracks"))
    except ClientError as error:
        send(_end("unavailable", error))
    except ReentryError as error:
        send(_end("failed", error))
    else:
        send(Message(end="scored"))
    # An orderly exit of the interpreter would wait for the lock on standard input, which the other thread holds.
    os._exit(0)


def _listen(source: BinaryIO, control: Control, may_score: threading.Event) -> None:
    for line in source:
        if line.strip() == b"stop":
            control.stop()
        may_score.set()
    os._exit(1)  # the worker is dead, and another one may take the job


def _message(progress: Progress) -> Message:
    return Message(
        stage=progress.stage.value,
        rows=progress.rows,
        tracks=progress.tracks,
        done=progress.done,
        refused=progress.refused,
        model_version=progress.model_version,
    )


def _end(end: Literal["invalid", "unavailable", "failed"], error: ReentryError) -> Message:
    return Message(
        end=end, problem=error.problem, expected=error.expected, got=error.got, where=error.where, fix=error.fix
    )


def _write_faults(report: ReadReport, path: Path) -> None:
    """Write every track that is set aside with all its faults."""
    if report.clean:
        return
    faults = defaultdict(list)
    for fault in report.faults:
        faults[fault.track_id].append(fault)
    encoder = msgspec.json.Encoder()
    with whole_file(path) as part, part.open("wb") as file:
        for each in report.set_aside:
            line = TrackFaults(
                track_id=each.track_id, rows=len(each.rows), reason=each.reason, faults=faults[each.track_id]
            )
            file.write(encoder.encode(line) + b"\n")


def _parquet(source: Path, path: Path) -> Path:
    """Convert an Arrow stream to Parquet, a batch at a time.

    Raises:
        TrackFileError: the file is not an Arrow stream.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pa.OSFile(str(source)) as file, pa.ipc.open_stream(file) as stream, whole_file(path) as part:  # noqa: SIM117
            with pq.ParquetWriter(part, stream.schema) as writer:
                for batch in stream:
                    batch.validate(full=True)
                    writer.write_batch(batch)
            if file.tell() < file.size():
                raise pa.ArrowInvalid("bytes follow the end of the stream")
    except (pa.ArrowException, OSError) as error:
        raise TrackFileError(
            "not readable as an Arrow stream", where=str(source), got=str(error).partition("\n")[0]
        ) from error
    return path


if __name__ == "__main__":
    main()
