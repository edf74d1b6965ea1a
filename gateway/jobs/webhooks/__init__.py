"""Signed messages about jobs that have ended, to addresses that the accounts choose."""
