"""Reading, validating, repairing and writing files of missile tracks."""

from reentry.tracks.fingerprint import fingerprint
from reentry.tracks.read import TrackFile, read_tracks
from reentry.tracks.repair import RepairConfig
from reentry.tracks.report import Fault, Note, ReadReport, Repair, SetAside
from reentry.tracks.track import Track, tracks_table
from reentry.tracks.write import origin_of, write_tracks

__all__ = [
    "Fault",
    "Note",
    "ReadReport",
    "Repair",
    "RepairConfig",
    "SetAside",
    "Track",
    "TrackFile",
    "fingerprint",
    "origin_of",
    "read_tracks",
    "tracks_table",
    "write_tracks",
]
