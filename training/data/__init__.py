"""Labelled tracks as samples in memory or on disk, their batches, and the fingerprints that identify them."""
