"""Seeded generators of labelled tracks."""
