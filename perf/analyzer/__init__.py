"""Measurements of a Triton server with NVIDIA's perf_analyzer: sweeps, the search for a latency limit, comparisons."""
