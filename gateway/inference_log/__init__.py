"""The log of every answer, which survives an outage of the database."""
