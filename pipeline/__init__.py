"""The data pipeline: hourly ingestion, versioned tables, reproducible training, retraining, canaries, bulk scoring.

Every step is a plain, idempotent command. No module but those of `pipeline.flows` imports an orchestrator.
"""
