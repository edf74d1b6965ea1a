from __future__ import annotations

import numpy as np
import pytest

from reentry.runtime import scratch
from reentry.runtime.scratch import ScratchArray
from tests.full_disk import room_for


@pytest.mark.parametrize("limit", [0, 2**24], ids=["in a file", "in memory"])
def test_values_survive_the_release_of_their_memory(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", limit)
    monkeypatch.setattr(scratch, "_FILLED_AT_ONCE", 1000)
    array = ScratchArray(12_345, np.float32(np.nan))
    assert np.isnan(array.values).all()
    array.values[5_000:] = np.arange(7_345)
    array.release()
    assert array.values.dtype == np.float32
    assert np.isnan(array.values[:5_000]).all()
    np.testing.assert_array_equal(array.values[5_000:], np.arange(7_345))


def test_a_full_disk_is_an_error_when_the_array_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 0)
    with room_for(10_000):
        ScratchArray(10_000, np.uint8(255))
        with pytest.raises(OSError, match="File too large"):
            ScratchArray(10_001, np.uint8(255))
