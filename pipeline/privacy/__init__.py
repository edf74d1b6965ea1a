"""Pseudonyms of the ids that could identify a person or a unit, their keys, and the texts that may be shown."""
