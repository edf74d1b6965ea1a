"""Scoring of big files in the background."""
