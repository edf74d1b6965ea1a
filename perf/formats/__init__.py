"""Benchmarks that compare the export formats on one machine."""
