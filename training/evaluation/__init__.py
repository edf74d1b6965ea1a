"""Evaluation of networks: metrics, groups of tracks, reports and plots."""
