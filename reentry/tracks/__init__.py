"""Tracks: the flights of a file, read, validated, repaired and written."""

from reentry.tracks.read import TrackFile, read_tracks
from reentry.tracks.track import Track
from reentry.tracks.write import write_tracks

__all__ = ["Track", "TrackFile", "read_tracks", "write_tracks"]
