"""The file of alerts as an outbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.stream.event_file import EventFile

GATEWAY = "http://gateway:8080"


def append(path: Path, *numbers: int) -> None:
    with path.open("a") as file:
        file.writelines(f'{{"event": "alert", "track_id": {number}}}\n' for number in numbers)


def tracks(events: EventFile, most: int = 100) -> tuple[list[int], int]:
    read, offset = events.read(most)
    return [event["track_id"] for event in read], offset


def test_events_are_read_again_until_they_are_delivered(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    events = EventFile(path, GATEWAY)
    assert events.waiting == 0
    append(path, 1, 2, 3)
    assert (events.waiting > 0, events.count()) == (True, 3)
    assert tracks(events, most=2)[0] == [1, 2]
    read, offset = tracks(events, most=2)
    assert read == [1, 2]
    events.delivered(offset)
    assert events.count() == 1
    read, offset = tracks(events)
    assert read == [3]
    events.delivered(offset)
    assert (events.waiting, tracks(events)[0]) == (0, [])


def test_the_next_run_delivers_what_an_earlier_one_could_not(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    append(path, 1)  # from before the first run with a gateway
    first = EventFile(path, GATEWAY)
    append(path, 2, 3)
    first.delivered(tracks(first, most=1)[1])
    append(path, 4)
    assert tracks(EventFile(path, GATEWAY))[0] == [3, 4]


def test_another_gateway_begins_with_its_own_run(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    EventFile(path, GATEWAY)
    append(path, 1)
    other = EventFile(path, "http://other:8080")
    append(path, 2)
    assert tracks(other)[0] == [2]


def test_a_new_file_in_the_place_of_the_old_one_is_delivered_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    append(path, 1, 2, 3)
    EventFile(path, GATEWAY)
    path.unlink()
    append(path, 9)
    assert tracks(EventFile(path, GATEWAY))[0] == [9]


@pytest.mark.parametrize("note", ["", "no json", "[]", '{"gateway": "http://gateway:8080", "offset": null}'])
def test_an_unusable_note_counts_as_none(tmp_path: Path, note: str) -> None:
    path = tmp_path / "alerts.jsonl"
    append(path, 1)
    path.with_name("alerts.jsonl.delivered").write_text(note)
    events = EventFile(path, GATEWAY)
    append(path, 2)
    assert tracks(events)[0] == [2]


def test_lines_that_are_no_events_are_skipped_and_an_unfinished_line_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "alerts.jsonl"
    events = EventFile(path, GATEWAY)
    path.write_text('not json\n[1]\n{"track_id": 1}\n{"track_id"')
    read, offset = tracks(events)
    assert read == [1]
    assert caplog.text.count("a line that is not an event") == 2
    events.delivered(offset)
    assert tracks(events) == ([], offset)
    with path.open("a") as file:
        file.write(": 2}\n")
    assert tracks(events)[0] == [2]
