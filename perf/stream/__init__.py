"""Replays simulated live tracks at a fixed pace through a Triton server, and measures its answers."""
