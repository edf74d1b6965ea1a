"""Labelled tracks as samples: in memory, streamed, batched; which data they are and what they share."""
