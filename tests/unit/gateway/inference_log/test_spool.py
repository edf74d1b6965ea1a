"""The spool: parts, limits, adoption, and what a crash leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.inference_log import spool as spool_module
from gateway.inference_log.spool import Spool, abandoned
from reentry.runtime.records import encode_record
from tests.full_disk import room_for


def bodies(spool: Spool) -> list[bytes]:
    return [body for part in spool.parts for body in part.records()]


def test_records_come_back_in_their_order_from_numbered_parts(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, 10**6)
    for number in range(3):
        for each in range(2):
            assert spool.append(b"%d-%d" % (number, each))
        spool.end_part()
        spool.end_part()  # an empty part is none
    assert [part.number for part in spool.parts] == [1, 2, 3]
    assert bodies(spool) == [b"0-0", b"0-1", b"1-0", b"1-1", b"2-0", b"2-1"]
    spool.remove(spool.parts[0])
    assert bodies(spool) == [b"1-0", b"1-1", b"2-0", b"2-1"]
    spool.close()


def test_a_large_part_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "PART_BYTES", 100)
    spool = Spool.create(tmp_path, 10**6)
    for _ in range(10):
        spool.append(b"x" * 40)
    assert [part.size for part in spool.parts] == [144] * 3
    spool.close()


def test_a_full_spool_refuses_the_newest_and_takes_records_again_when_there_is_room(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, 100)
    assert [spool.append(b"x" * 40) for _ in range(3)] == [True, True, False]
    assert spool.size == 96
    spool.end_part()
    assert not spool.append(b"y" * 40)
    spool.remove(spool.parts[0])
    assert spool.size == 0
    assert spool.append(b"z" * 40)
    spool.close()


def test_a_full_disk_leaves_only_complete_records(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, 10**9)
    with room_for(64 * 1024):
        kept = 0
        while spool.append(b"%08d" % kept + b"x" * 4_992):
            kept += 1
        assert not spool.append(b"x" * 4_992)
    assert (kept, spool.size) == (13, 13 * 5_008)
    assert spool.append(b"%08d" % kept)
    spool.end_part()
    assert [int(body[:8]) for body in bodies(spool)] == list(range(14))
    spool.close()


def test_the_folder_of_an_ended_process_is_adopted_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    living, ended = Spool.create(tmp_path, 1_000), Spool.create(tmp_path, 1_000)
    living.append(b"living")
    ended.append(b"ended")
    ended.close()
    adopted = list(abandoned(tmp_path))
    assert [(each.name, bodies(each)) for each in adopted] == [(ended.name, [b"ended"])]
    assert list(abandoned(tmp_path)) == []
    adopted[0].remove(adopted[0].parts[0])
    adopted[0].close()
    assert [path.name for path in tmp_path.iterdir()] == [living.name]
    living.close()


def test_an_empty_spool_leaves_no_folder(tmp_path: Path) -> None:
    Spool.create(tmp_path, 1_000).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [-1, 3, 8, 20])
def test_an_incomplete_record_at_the_end_is_left_out(tmp_path: Path, damage: int) -> None:
    spool = Spool.create(tmp_path, 1_000)
    spool.append(b"complete")
    spool.end_part()
    broken = bytearray(encode_record(b"incomplete record"))
    if damage == 20:
        broken[20] ^= 1
    else:
        del broken[damage:]
    with spool.parts[0].path.open("ab") as file:
        file.write(broken)
    assert bodies(spool) == [b"complete"]
    spool.close()


def test_sync_covers_the_part_that_is_being_written(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, 1_000)
    spool.append(b"first")
    spool.end_part()
    spool.append(b"second")
    spool.sync()
    spool.end_part()
    assert [part.is_synced for part in spool.parts] == [True, True]
    spool.append(b"third")
    spool.end_part()
    assert [part.is_synced for part in spool.parts] == [True, True, False]
    spool.close()
