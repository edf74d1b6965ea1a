"""Triton backends in Python. The server loads a copy of their files."""
