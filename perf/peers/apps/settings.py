"""Environment variables through which the programs get their settings; `perf.peers.contestants` sets them."""

from __future__ import annotations

from typing import Final

MODEL: Final = "REENTRY_PEER_MODEL"
"""Path of track.onnx."""
CHECKPOINT: Final = "REENTRY_PEER_CHECKPOINT"
"""Path of the checkpoint that track.onnx was exported from."""
WORKERS: Final = "REENTRY_PEER_WORKERS"
"""Number of worker processes."""
PORT: Final = "REENTRY_PEER_PORT"
"""HTTP port."""
