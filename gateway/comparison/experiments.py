"""Experiments: their rows in the database, and the running ones in memory for the scoring of tracks."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import RowMapping, delete, insert, select, update

from gateway.background import repeating
from gateway.comparison.assignment import Assignment, Mode, Target, Variant, position
from gateway.database.engine import Database
from gateway.database.pages import read_page
from gateway.database.tables import Account, Experiment
from gateway.ids import new_id
from gateway.problems import Problem

REFRESH_SECONDS: Final = 1.0
"""Time between two reads of the running experiments."""

RUNNING: Final = "running"
ENDED: Final = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An experiment as the gateway runs it."""

    id: str
    account_id: str
    name: str
    mode: Mode
    control: Target
    challenger: Target
    share: float
    """Share of the tracks that the challenger scores."""
    key: str
    """Secret of the assignment."""
    state: str
    created_at: float
    ended_at: float | None

    @classmethod
    def of(cls, row: Mapping[str, Any] | RowMapping) -> Plan:
        """Read a row of the database."""
        return cls(
            id=row["id"],
            account_id=row["account_id"],
            name=row["name"],
            mode=Mode(row["mode"]),
            control=Target.from_dict(row["control"]),
            challenger=Target.from_dict(row["challenger"]),
            share=row["share"],
            key=row["salt"],
            state=row["state"],
            created_at=row["created_at"],
            ended_at=row["ended_at"],
        )

    def assign(self, track_id: int) -> Assignment | None:
        """Return what the experiment does with a track; None for a track of a shadow experiment outside the share."""
        is_chosen = position(self.key, self.id, self.account_id, track_id) < self.share
        if self.mode is Mode.SHADOW:
            if not is_chosen:
                return None
            return Assignment(
                experiment_id=self.id, variant=Variant.CONTROL, target=self.control, shadow=self.challenger
            )
        if is_chosen:
            return Assignment(experiment_id=self.id, variant=Variant.CHALLENGER, target=self.challenger)
        return Assignment(experiment_id=self.id, variant=Variant.CONTROL, target=self.control)


class Experiments:
    """The experiments of all accounts. An account runs at most one at a time, so that each track has one variant."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running: dict[str, Plan] = {}
        self._reading = asyncio.Lock()
        """Keeps an older read from replacing the result of a newer one."""

    def variant_of(self, account_id: str, track_id: int) -> Assignment | None:
        """Return what the running experiment of an account does with a track; None without one.

        The answer comes from memory. An experiment that was started or ended applies in every process after
        `REFRESH_SECONDS`. If the database does not answer, the experiments known last continue.
        """
        plan = self._running.get(account_id)
        return None if plan is None else plan.assign(track_id)

    def is_running(self, account_id: str) -> bool:
        """Whether the account runs an experiment."""
        return account_id in self._running

    async def refresh(self) -> None:
        """Read the running experiments.

        Raises:
            DatabaseUnavailableError: the database does not answer; the experiments stay as they are.
        """
        async with self._reading, self._database.reading() as connection:
            rows = (await connection.execute(select(Experiment).where(Experiment.state == RUNNING))).mappings().all()
            self._running = {row["account_id"]: Plan.of(row) for row in rows}

    def refreshing(self) -> AbstractAsyncContextManager[None]:
        """Refresh the running experiments every second during the block."""
        return repeating(self.refresh, seconds=REFRESH_SECONDS, failure="the experiments were not read")

    async def create(
        self, account_id: str, *, name: str, mode: Mode, control: Target, challenger: Target, share: float
    ) -> Plan:
        """Start an experiment.

        Raises:
            Problem: the account has an experiment of this name, or one that is running.
            DatabaseUnavailableError: the database does not answer.
        """
        values: dict[str, Any] = {
            "id": new_id("exp"),
            "account_id": account_id,
            "name": name,
            "mode": str(mode),
            "control": control.as_dict(),
            "challenger": challenger.as_dict(),
            "share": share,
            "salt": secrets.token_hex(16),
            "state": RUNNING,
            "created_at": time.time(),
            "ended_at": None,
        }
        async with self._database.writing() as connection:
            # The lock orders two requests that start an experiment at once. SQLite allows one transaction anyway.
            await connection.execute(select(Account.id).where(Account.id == account_id).with_for_update())
            mine = select(Experiment.id, Experiment.name).where(Experiment.account_id == account_id)
            running = (await connection.execute(mine.where(Experiment.state == RUNNING))).first()
            if running is not None:
                raise Problem(
                    "conflict",
                    f"the experiment {running.name} is running, and each track can have one variant only",
                    where=running.id,
                    fix=f'end it with PATCH /v1/experiments/{running.id} and {{"state": "ended"}}',
                )
            if (await connection.execute(mine.where(Experiment.name == name))).first() is not None:
                raise Problem("conflict", f"there is an experiment of the name {name}", fix="choose another name")
            await connection.execute(insert(Experiment).values(**values))
        await self.refresh()
        return Plan.of(values)

    async def list(
        self, account_id: str, *, limit: int, cursor: str | None = None
    ) -> tuple[Sequence[Plan], str | None]:
        """Return a page of the experiments of an account, the newest first, and the cursor of the next one.

        Raises:
            Problem: the cursor is invalid.
        """
        query = select(*Experiment.__table__.columns).where(Experiment.account_id == account_id)
        async with self._database.reading() as connection:
            rows, following = await read_page(
                connection, query, [Experiment.__table__.c.id], limit=limit, cursor=cursor, newest_first=True
            )
        return [Plan.of(row._mapping) for row in rows], following

    async def get(self, account_id: str, experiment_id: str) -> Plan:
        """Return an experiment of an account.

        Raises:
            Problem: the account has no such experiment.
        """
        query = select(Experiment).where(Experiment.account_id == account_id, Experiment.id == experiment_id)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise _missing(experiment_id)
        return Plan.of(row)

    async def end(self, account_id: str, experiment_id: str) -> Plan:
        """End an experiment; an ended one stays as it is.

        Raises:
            Problem: the account has no such experiment.
        """
        change = (
            update(Experiment)
            .where(Experiment.account_id == account_id, Experiment.id == experiment_id, Experiment.state == RUNNING)
            .values(state=ENDED, ended_at=time.time())
        )
        async with self._database.writing() as connection:
            await connection.execute(change)
        await self.refresh()
        return await self.get(account_id, experiment_id)

    async def delete(self, account_id: str, experiment_id: str) -> None:
        """Delete an ended experiment. Its rows stay in the inference log.

        Raises:
            Problem: the account has no such experiment, or it is running.
        """
        plan = await self.get(account_id, experiment_id)
        if plan.state == RUNNING:
            raise Problem(
                "conflict",
                f"the experiment {plan.name} is running",
                where=experiment_id,
                fix=f'end it with PATCH /v1/experiments/{experiment_id} and {{"state": "ended"}}',
            )
        async with self._database.writing() as connection:
            await connection.execute(
                delete(Experiment).where(Experiment.account_id == account_id, Experiment.id == experiment_id)
            )


def _missing(experiment_id: str) -> Problem:
    return Problem(
        "not-found", "no such experiment", where=experiment_id, fix="GET /v1/experiments lists the experiments"
    )
