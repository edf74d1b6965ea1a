"""Benchmarks of throughput, latency and memory."""
