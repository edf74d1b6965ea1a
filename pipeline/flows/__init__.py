"""Dagster definitions: schedules, sensors and backfills of the functions that the commands of `cli` also call.

    dagster dev -m pipeline.flows.definitions

No other package imports Dagster, and the commands work without it. Packages that are heavy to import are imported when
a run needs them, because Dagster loads the definitions in several processes.
"""
