"""Webhooks arrive signed at a real HTTP server, are repeated after failures, and follow no redirect."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest
from sqlalchemy import Row, select, update
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.database.tables import WebhookDelivery
from gateway.jobs.webhooks.addresses import Reachable
from gateway.jobs.webhooks.deliveries import Deliveries
from gateway.problems import Problem
from tests.job_client import Receiver, running_receiver
from tests.unit.gateway.jobs.conftest import Bench

WithBench = Callable[..., None]
LOCAL = {"webhooks_to": ("127.0.0.1/32",)}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


async def announce(bench: Bench, url: str) -> str:
    """End a job with a webhook, and return its id."""
    job_id = await bench.create(webhook_url=url)
    await bench.jobs.leases.cancel(bench.east.account_id, job_id)
    return job_id


async def outbox(bench: Bench) -> Row[tuple[object, ...]]:
    async with bench.database.reading() as connection:
        return (await connection.execute(select(WebhookDelivery))).one()  # type: ignore[return-value]


def test_a_message_is_delivered_once_and_its_signature_is_valid(with_bench: WithBench, receiver: Receiver) -> None:
    async def work(bench: Bench) -> None:
        secret = await bench.jobs.secrets.rotate(bench.east.account_id)
        job_id = await announce(bench, receiver.url)
        deliveries = Deliveries(bench.database, Reachable(bench.settings.webhooks_to))
        assert await deliveries.deliver_next()
        assert not await deliveries.deliver_next()
        ((headers, body),) = receiver.received
        message = Webhook(secret).verify(body, headers)
        assert (message["type"], message["data"]["id"]) == ("job.cancelled", job_id)
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body.replace(b"cancelled", b"completed"), headers)
        assert (await outbox(bench)).state == "delivered"

    with_bench(work, **LOCAL)


def test_failures_are_repeated_later_with_the_same_id_until_the_message_arrives(
    with_bench: WithBench, receiver: Receiver
) -> None:
    receiver.statuses = [500, 404]

    async def work(bench: Bench) -> None:
        await bench.jobs.secrets.rotate(bench.east.account_id)
        await announce(bench, receiver.url)
        deliveries = Deliveries(bench.database, Reachable(bench.settings.webhooks_to), first_delay=100)
        for attempt, (error, longest) in enumerate([("status 500", 120), ("status 404", 480)], 1):
            assert await deliveries.deliver_next()
            row = await outbox(bench)
            assert (row.state, row.attempts, row.last_error) == ("waiting", attempt, error)
            assert longest * 0.6 < row.next_at - time.time() <= longest
            assert not await deliveries.deliver_next(), "it is not due yet"
            async with bench.database.writing() as connection:
                await connection.execute(update(WebhookDelivery).values(next_at=0.0))
        assert await deliveries.deliver_next()
        assert (await outbox(bench)).state == "delivered"
        assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1

    with_bench(work, **LOCAL)


def test_a_message_that_nobody_accepts_for_a_day_is_given_up(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        await bench.jobs.secrets.rotate(bench.east.account_id)
        await announce(bench, f"http://127.0.0.1:{closed.getsockname()[1]}/")
        async with bench.database.writing() as connection:
            await connection.execute(update(WebhookDelivery).values(created_at=time.time() - 86_399))
        deliveries = Deliveries(bench.database, Reachable(bench.settings.webhooks_to))
        assert await deliveries.deliver_next()
        row = await outbox(bench)
        assert (row.state, row.last_error) == ("failed", "ConnectError")

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        with_bench(work, **LOCAL)


def test_a_redirect_is_not_followed(with_bench: WithBench, receiver: Receiver) -> None:
    receiver.statuses = [302]
    receiver.headers = {"location": receiver.url}

    async def work(bench: Bench) -> None:
        await bench.jobs.secrets.rotate(bench.east.account_id)
        await announce(bench, receiver.url)
        assert await Deliveries(bench.database, Reachable(bench.settings.webhooks_to)).deliver_next()
        assert (await outbox(bench)).last_error == "status 302"
        assert len(receiver.received) == 1

    with_bench(work, **LOCAL)


def test_an_address_that_has_become_private_is_never_connected_to(with_bench: WithBench, receiver: Receiver) -> None:
    async def work(bench: Bench) -> None:
        await bench.jobs.secrets.rotate(bench.east.account_id)
        await announce(bench, receiver.url)
        assert await Deliveries(bench.database, Reachable()).deliver_next()
        row = await outbox(bench)
        assert (row.state, row.last_error) == ("failed", "webhooks do not reach this address")
        assert receiver.received == []

    with_bench(work, **LOCAL)


def test_two_processes_deliver_a_message_once(with_bench: WithBench, receiver: Receiver) -> None:
    async def work(bench: Bench) -> None:
        await bench.jobs.secrets.rotate(bench.east.account_id)
        jobs = {await announce(bench, receiver.url) for _ in range(6)}
        both = [Deliveries(bench.database, Reachable(bench.settings.webhooks_to)) for _ in range(2)]

        async def deliver_all(deliveries: Deliveries) -> None:
            while await deliveries.deliver_next():
                pass

        await asyncio.gather(*map(deliver_all, both))
        received = [msgspec.json.decode(body)["data"]["id"] for _, body in receiver.received]
        assert sorted(received) == sorted(jobs)

    with_bench(work, **LOCAL)


def test_slow_receivers_of_one_account_do_not_delay_the_messages_of_another(
    with_bench: WithBench, receiver: Receiver
) -> None:
    async def work(bench: Bench) -> None:
        for account in (bench.east, bench.west):
            await bench.jobs.secrets.rotate(account.account_id)
        slow = [await announce(bench, receiver.url) for _ in range(3)]
        west = await bench.create(bench.west, webhook_url=receiver.url)
        await bench.jobs.leases.cancel(bench.west.account_id, west)
        async with bench.database.writing() as connection:  # a process waits for the receiver of the first message
            in_delivery = update(WebhookDelivery).where(WebhookDelivery.job_id == slow[0])
            await connection.execute(in_delivery.values(lease_until=time.time() + 60))
        deliveries = Deliveries(bench.database, Reachable(bench.settings.webhooks_to))
        while await deliveries.deliver_next():
            pass
        received = [msgspec.json.decode(body)["data"]["id"] for _, body in receiver.received]
        assert received == [west, *slow[1:]]

    with_bench(work, **LOCAL)


def test_a_job_with_a_webhook_needs_a_secret_and_a_public_address(with_bench: WithBench) -> None:
    async def work(bench: Bench) -> None:
        with pytest.raises(Problem) as problem:
            await bench.create(webhook_url="https://hooks.example.com/")
        assert problem.value.code == "conflict"
        assert problem.value.fields["fix"] == "create one first: POST /v1/webhook-secret"
        for url in ("https://10.0.0.1/", "http://hooks.example.com/"):
            with pytest.raises(Problem) as problem:
                await bench.create(webhook_url=url)
            assert (problem.value.code, problem.value.fields["where"]) == ("invalid-value", "webhook_url")
        assert bench.jobs.files.job_ids() == []

    with_bench(work)
