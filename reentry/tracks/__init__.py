"""Tracks: the flights of a file, read, validated, repaired and written."""

from reentry.tracks.track import Track

__all__ = ["Track"]
