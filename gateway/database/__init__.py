"""The database of the gateway: its tables, migrations, and engine."""
