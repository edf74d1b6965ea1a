"""Everything that the routes need, opened and closed in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.accounts.authentication import Authentication
from gateway.accounts.claims import Claims
from gateway.accounts.directory import Directory
from gateway.accounts.limits import Limits
from gateway.comparison.daily_drift import DailyDrift
from gateway.comparison.experiments import Experiments
from gateway.comparison.outcomes import Outcomes
from gateway.database.engine import Database
from gateway.events.bus import bus_of
from gateway.events.publish import Events
from gateway.events.sse import Readers
from gateway.inference_log.log import InferenceLog
from gateway.jobs.service import Jobs
from gateway.kserve.calls import KServeCalls
from gateway.kserve.models import ServedModels
from gateway.scoring.cache import AnswerCache
from gateway.scoring.catalogue import ModelCatalogue
from gateway.scoring.scorer import Scorer
from gateway.settings import GatewaySettings
from gateway.traces import exporting


class Services:
    """Connections and state of one gateway process. They exist from the start; `open` connects them."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.directory = Directory(self.database, settings)
        self.authentication = Authentication(self.database, settings)
        self.limits = Limits(settings)
        self.claims = Claims(self.database)
        self.served_models = ServedModels(settings.triton_url)
        self.log = InferenceLog(self.database, settings)
        self.bus = bus_of(settings.redis_url)
        self.events = Events(self.database, self.bus)
        self.readers = Readers()
        self.catalogue = ModelCatalogue(settings.triton_url)
        self.experiments = Experiments(self.database)
        self.outcomes = Outcomes(self.database)
        self.drift = DailyDrift(self.database, settings.model_repository)
        self.cache = AnswerCache(settings)
        self.scorer = Scorer(settings, self.experiments)
        self.triton = self.scorer.main.triton
        self.triton.on_change = self.cache.clear
        self.kserve_calls = KServeCalls(self.triton, settings)
        self.jobs = Jobs(settings, self.database, self.limits)
        self.stopping = asyncio.Event()
        """Set when the process shuts down: it is no longer ready, and ends its streams of events."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Services]:
        """Connect everything, and close it in the opposite order."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exporting(self.settings))
            stack.push_async_callback(self.database.close)
            await stack.enter_async_context(self.limits.open())
            await stack.enter_async_context(self.claims.open())
            if self.authentication.tokens is not None:
                await stack.enter_async_context(self.authentication.tokens.open())
            await stack.enter_async_context(self.served_models.open())
            self.log.open()
            stack.push_async_callback(self.log.close)
            await self.bus.open()
            stack.push_async_callback(self.bus.close)
            stack.push_async_callback(self.catalogue.close)
            await stack.enter_async_context(self.experiments.refreshing())
            await stack.enter_async_context(self.drift.watching())
            stack.push_async_callback(self.cache.close)
            await stack.enter_async_context(self.scorer.open())
            await stack.enter_async_context(self.jobs.working(self.settings.worker_count, self.stopping))
            yield self
