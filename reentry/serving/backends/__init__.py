"""Triton backends written in Python; the server loads their files from a copy of their folder."""
