"""Measures throughput and latency, side by side."""
