"""Data protection: pseudonyms and their keys, rotation, erasure, audit, and masking of texts for logs."""
