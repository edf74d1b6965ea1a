from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from reentry.runtime.ahead import one_ahead


def test_items_come_in_order_and_the_next_one_is_computed_meanwhile() -> None:
    computed = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(computed):
            event.set()
            yield number

    found = []
    for number in one_ahead(items()):
        found.append(number)
        assert all(event.wait(60.0) for event in computed[: number + 2])
        assert not any(event.is_set() for event in computed[number + 2 :])
    assert found == [0, 1, 2]


def test_an_error_is_raised_behind_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("damaged")

    found = []
    with pytest.raises(ValueError, match="damaged"):
        found += [*one_ahead(items())]
    ahead = one_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(ahead)


def test_the_thread_ends_when_the_items_are_not_needed() -> None:
    threads = []

    def items() -> Iterator[int]:
        for number in range(10):
            threads.append(threading.current_thread())
            yield number

    ahead = one_ahead(items())
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]  # it is a generator
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)
