"""Comparison of Triton with other servers of the same graph, under the same load on the same machine."""
