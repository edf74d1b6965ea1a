"""Implicit state of sequences, which Triton gives to C++ backends alone: a Python-based backend keeps it itself.

Triton forms the sequences: it refuses a request without START for an unknown or idle one, and gives a batch at most
one request of each. Here the state of each sequence is zero at START, kept until its next request, and dropped at END.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reentry.serving.backends.onnxruntime.settings import SettingError
from reentry.triton.sequences import END, START, Sequences

Array = npt.NDArray[Any]


class SequenceStates:
    """The states of the sequences of one instance. A configuration without sequence batching has none."""

    def __init__(self, config: dict[str, Any], numpy_type: Callable[[str], type[np.generic]]) -> None:
        """Read the states that the configuration declares.

        Args:
            config: configuration of the model.
            numpy_type: function that returns the numpy type of a type of Triton.

        Raises:
            SettingError: the sequence batching is not of the kind that this backend supports.
        """
        settings = config.get("sequence_batching") or {}
        if settings and "oldest" not in settings:
            raise SettingError("sequence_batching: only the strategy oldest is supported")
        if settings.get("control_input"):
            raise SettingError("sequence_batching.control_input is not supported; the state is zero at START")
        states = settings.get("state", [])
        self.inputs, self.outputs = (
            [{"name": each[f"{kind}_name"], "data_type": each["data_type"], "dims": each["dims"]} for each in states]
            for kind in ("input", "output")
        )
        # The state of each sequence is a row of a table. The first row stays zero, for the sequences that start.
        self._tables = [_zero(state, numpy_type(state["data_type"])) for state in states]
        idle = int(settings.get("max_sequence_idle_microseconds", 1_000_000)) / 1e6
        self._rows: Sequences[int] = Sequences(idle)
        self._free: list[int] = []

    def __len__(self) -> int:
        """Number of sequences with a state."""
        return len(self._rows)

    def row(self, request: Any) -> int:
        """Return the row of the state before a request of Triton.

        Raises:
            ValueError: the sequence is unknown and the request does not start it.
        """
        if not self.inputs or request.flags() & START:
            return 0
        row = self._rows.get(request.correlation_id())
        if row is None:
            raise ValueError(
                f"sequence {request.correlation_id()} has no state: the first request of a sequence must specify the "
                "START flag"
            )
        return row

    def before(self, rows: Sequence[int]) -> list[Array]:
        """Return the states of some rows, (B, ...) each."""
        return [table[rows] for table in self._tables]

    def keep(self, requests: Sequence[Any], states: Sequence[Array]) -> None:
        """Keep the states of the requests' sequences after their run, (B, ...) each, or drop them at the end."""
        if not self.inputs:
            return
        rows = [self._row_after(request) for request in requests]
        for table, state in zip(self._tables, states, strict=True):
            table[rows] = state
            table[0] = 0
        self._free += self._rows.drop_idle()

    def _row_after(self, request: Any) -> int:
        """Return the row for the state after a request; the first one if the sequence ends."""
        name = request.correlation_id()
        row = self._rows.get(name)
        if request.flags() & END:
            if row is not None:
                self._rows.drop(name)
                self._free.append(row)
            return 0
        if row is None:
            row = self._new_row()
        self._rows.put(name, row)
        return row

    def _new_row(self) -> int:
        if not self._free:
            size = len(self._tables[0])
            self._tables = [np.concatenate([table, np.zeros_like(table)]) for table in self._tables]
            self._free = list(range(size, 2 * size))
        return self._free.pop()


def _zero(state: dict[str, Any], dtype: type[np.generic]) -> Array:
    """Return the initial value of a state, (1, ...).

    Raises:
        SettingError: it is not declared to be zero, or the state has no fixed size.
    """
    name = state["input_name"]
    initial = state.get("initial_state", [])
    if len(initial) != 1 or not initial[0].get("zero_data"):
        raise SettingError(
            f"sequence_batching.state {name}: expected initial_state {{ zero_data: true }}; without it the C++ backend "
            "starts with random numbers"
        )
    dims = [int(size) for size in state["dims"]]
    if min(dims, default=1) < 1 or dims != [int(size) for size in initial[0]["dims"]]:
        raise SettingError(f"sequence_batching.state {name}: expected fixed dims, as for initial_state. Got: {dims}")
    return np.zeros([1, *dims], dtype)
