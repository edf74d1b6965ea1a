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
        self._initial = [_zero(state, numpy_type(state["data_type"])) for state in states]
        idle = int(settings.get("max_sequence_idle_microseconds", 1_000_000)) / 1e6
        self._kept: Sequences[list[Array]] = Sequences(idle)

    def __len__(self) -> int:
        """Number of sequences with a state."""
        return len(self._kept)

    def before(self, request: Any) -> list[Array]:
        """Return the states of the sequence of a request of Triton, (1, ...) each.

        Raises:
            ValueError: the sequence is unknown and the request does not start it.
        """
        if not self.inputs or request.flags() & START:
            return self._initial
        kept = self._kept.get(request.correlation_id())
        if kept is None:
            raise ValueError(
                f"sequence {request.correlation_id()} has no state: the first request of a sequence must specify the "
                "START flag"
            )
        return kept

    def keep(self, request: Any, states: Sequence[Array]) -> None:
        """Keep the states of a request's sequence after its run, or drop them at its end."""
        if not self.inputs:
            return
        if request.flags() & END:
            self._kept.drop(request.correlation_id())
        else:
            self._kept.put(request.correlation_id(), list(states))
        self._kept.drop_idle()


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
