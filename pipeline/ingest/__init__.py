"""Hourly ingestion: files of the landing folder become rows of `raw`, and what breaks a rule goes to `quarantine`."""
