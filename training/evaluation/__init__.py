"""How good a network is: metrics, groups of tracks, reports and plots."""
