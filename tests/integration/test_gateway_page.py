"""The live page in a browser: what it shows, how it reconnects, and whether everybody can use it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.gateway_servers import GatewayProcess, running_gateway
from tests.page_feed import PageFeed, Relay

SOURCES = Path(__file__).parents[2] / "gateway" / "page"
CHROMIUM = Path("/usr/bin/chromium")
# The software renderer of the globe is slow on a busy machine.
expect.set_options(timeout=30_000)
AXE = SOURCES / "node_modules" / "axe-core" / "axe.min.js"
START = 1731328200.0
"""Timestamp of the first measurement, 2024-11-11 12:30:00 UTC."""
ONSET = START + 63.5


def npm(*words: str) -> None:
    done = subprocess.run(["npm", *words], cwd=SOURCES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """The page, built if it is missing or older than its sources."""
    if shutil.which("npm") is None:
        pytest.skip("npm is missing, which builds the page: install Node 20 or later")
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(node.removeprefix("v").partition(".")[0]) < 20:
        pytest.skip(f"Node {node} is too old to build the page: install Node 20 or later")
    if not AXE.exists():
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(install, cwd=SOURCES, capture_output=True, text=True, check=False)
        if re.search("ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN", done.stderr):
            pytest.skip("the npm registry cannot be reached, from which the page's packages come")
        assert done.returncode == 0, done.stderr[-4000:]
    index = SOURCES / "dist" / "index.html"
    sources = [*SOURCES.glob("src/*"), *SOURCES.glob("*.json"), SOURCES / "build.mjs"]
    if not index.exists() or index.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        npm("run", "build")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    arguments = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running_gateway(tmp_path_factory.mktemp("page")) as running:
        yield running


@pytest.fixture
def feed(gateway: GatewayProcess) -> PageFeed:
    return PageFeed(gateway)


@dataclass
class Opened:
    """The page in a browser, and what it requested and complained about."""

    page: Page
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def connect(self, key: str) -> Page:
        self.page.get_by_label("Key", exact=True).fill(key)
        self.page.keyboard.press("Enter")
        return self.page

    def connected(self, key: str) -> Page:
        self.connect(key)
        expect(self.page.get_by_role("status").first).to_have_text("Live")
        return self.page


Open = Callable[..., AbstractContextManager[Opened]]


@pytest.fixture
def opened(browser: Browser) -> Open:
    """Open the page at an address with options of the browser's context. On leaving, check requests and complaints.

    Without a globe the browser offers no WebGL, which takes less time. A globe is drawn with a quarter of the pixels.
    """

    @contextmanager
    def open_page(url: str, expected: str | None = None, globe: bool = False, **options: Any) -> Iterator[Opened]:
        context = browser.new_context(**({"device_scale_factor": 0.5} if globe else {}), **options)
        context.add_init_script(path=AXE)
        if not globe:
            context.add_init_script(
                "HTMLCanvasElement.prototype.getContext = ((get) => function (kind, ...rest) {"
                "return kind.startsWith('webgl') ? null : get.call(this, kind, ...rest)})"
                "(HTMLCanvasElement.prototype.getContext)"
            )
        page = context.new_page()
        page.set_default_timeout(60_000)
        opened = Opened(page)

        def complain(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"} and (expected is None or expected not in message.text):
                opened.complaints.append(message.text)

        page.on("console", complain)
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        context.on("request", lambda request: opened.requests.append(request))
        page.goto(url)
        yield opened
        assert opened.complaints == []
        outside = [each.url for each in opened.requests if not each.url.startswith((f"{url}/", "data:"))]
        assert outside == []
        context.close()

    return open_page


def point(track: int, second: float, **values: Any) -> dict[str, Any]:
    """A measurement of a track that descends from 120 km and enters reentry at ONSET."""
    timestamp = START + second
    reentry = timestamp >= ONSET
    measurement = {
        "track_id": track,
        "timestamp": timestamp,
        "latitude": 40.0 + track,
        "longitude": 10.0 + second / 100,
        "altitude": 120_000.0 - 1000.0 * second,
        "probability": 1 / (1 + math.exp((ONSET - timestamp) / 4)),
        "phase": int(reentry),
        "onset_timestamp": ONSET if reentry else None,
        "model_version": 5,
        "degraded": False,
    }
    return measurement | values


def alert(track: int, **values: Any) -> dict[str, Any]:
    given = {
        "feed": "west",
        "track_id": track,
        "onset_timestamp": ONSET,
        "detected_at": ONSET + 0.5,
        "probability": 0.618,
        "model_version": 5,
        "latency_ms": 4.13,
        "degraded": False,
    }
    return given | values


def refinement(track: int, hindsight: float, onset: float, deviation: float) -> dict[str, Any]:
    return {
        "feed": "west",
        "track_id": track,
        "onset_timestamp": ONSET,
        "refined_onset_timestamp": onset,
        "refined_onset_deviation": deviation,
        "hindsight_seconds": hindsight,
        "model_version": 5,
    }


def publish_tracks(feed: PageFeed, numbers: list[int], seconds: range) -> None:
    for second in seconds:
        feed.publish("update", {"feed": "west", "tracks": [point(number, second) for number in numbers]})


def axe_findings(page: Page) -> list[str]:
    found = page.evaluate("axe.run().then((report) => report.violations)")
    return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]


def test_the_unit_tests_and_the_types_of_the_page_pass() -> None:
    npm("run", "types")
    npm("test")


def test_an_alert_appears_with_its_refinements_and_is_announced(feed: PageFeed, opened: Open) -> None:
    with opened(feed.url) as there:
        page = there.connected(feed.key)
        feed.publish("alert", alert(7))
        feed.publish("refinement", refinement(7, 10.0, ONSET - 2.5, 0.84))
        feed.publish("refinement", refinement(7, 2.0, ONSET - 1.5, 1.92))
        item = page.locator("alert-list ol > li")
        expect(item).to_have_count(1)
        expect(item.get_by_role("button")).to_contain_text("Track 7 west")
        expect(item.get_by_role("button").locator("time")).to_have_text("12:31:03.5")
        expect(item).to_contain_text("probability 0.62 · 4.1 ms · version 5")
        expect(item.get_by_role("list", name="Refined onset of track 7").locator("li")).to_contain_text(
            [
                "after 2 s: 12:31:02.0 ± 1.9 s",
                "after 10 s: 12:31:01.0 ± 0.8 s",
            ],
            use_inner_text=True,
        )
        announced = page.locator("[data-announcement]")
        expect(announced).to_have_attribute("aria-live", "polite")
        expect(announced).to_have_text(
            "Alert: track 7 of feed west entered reentry at 12:31:03.5 UTC, probability 0.62."
        )


def test_a_broken_connection_misses_no_alert_and_doubles_none(feed: PageFeed, opened: Open) -> None:
    with Relay(feed.port) as relay, opened(relay.url, expected="Failed to load resource") as there:
        page = there.connected(feed.key)
        feed.publish("alert", alert(1))
        items = page.locator("alert-list ol .what")
        expect(items).to_have_text(["Track 1 west"])
        for numbers in ([2, 3], [4]):
            relay.cut()
            expect(page.get_by_role("status").first).to_contain_text("Connection lost")
            for number in numbers:
                feed.publish("alert", alert(number))
            relay.restore()
            expect(page.get_by_role("status").first).to_have_text("Live")
        feed.publish("alert", alert(4))
        feed.publish("alert", alert(5))
        expect(items).to_have_text([f"Track {number} west" for number in (5, 4, 3, 2, 1)])
        resumed = [each.headers.get("last-event-id") for each in there.requests if each.url.endswith("/v1/events")]
        assert resumed[0] is None
        assert all(resumed[1:])


def test_a_wrong_key_shows_the_problem_and_asks_again(feed: PageFeed, opened: Open) -> None:
    with opened(feed.url, expected="401") as there:
        page = there.connect("rk_wrong")
        expect(page.get_by_role("alert")).to_contain_text("The server refuses this key.")
        expect(page.get_by_label("Key", exact=True)).to_have_attribute("aria-invalid", "true")
        assert page.evaluate("sessionStorage.length") == 0
        there.connected(feed.key)


def test_a_revoked_key_ends_the_connection_and_says_so(feed: PageFeed, opened: Open) -> None:
    with opened(feed.url, expected="401") as there:
        page = there.connected(feed.key)
        feed.revoke()
        expect(page.get_by_role("alert")).to_contain_text("The server refuses this key.")


def test_the_key_survives_a_reload_of_the_tab_and_is_in_no_address(feed: PageFeed, opened: Open) -> None:
    with opened(feed.url) as there:
        page = there.connected(feed.key)
        page.reload()
        expect(page.get_by_role("status").first).to_have_text("Live")
        assert all(feed.key not in each.url for each in there.requests)
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.get_by_role("button", name="Forget the key").click()
        expect(page.get_by_label("Key", exact=True)).to_be_focused()
        assert page.evaluate("sessionStorage.length") == 0


def test_rows_are_sorted_and_selected_with_the_keyboard(feed: PageFeed, opened: Open) -> None:
    with opened(feed.url) as there:
        page = there.connected(feed.key)
        publish_tracks(feed, [1, 2, 3], range(0, 80, 4))
        tracks = page.locator("tbody th")
        expect(tracks).to_have_count(3)
        header = page.get_by_role("columnheader", name="Track")
        header.get_by_role("button").focus()
        page.keyboard.press("Enter")
        expect(header).to_have_attribute("aria-sort", "ascending")
        page.keyboard.press("Enter")
        expect(header).to_have_attribute("aria-sort", "descending")
        expect(tracks).to_contain_text(["Track 3", "Track 2", "Track 1"])
        row = page.locator("tbody button").first
        while not row.evaluate("(button) => button === document.activeElement"):
            page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("#chart-title")).to_have_text("Track 2 west")
        expect(page.get_by_role("button", name="Track 2", exact=True)).to_have_attribute("aria-pressed", "true")
        chart = page.get_by_role("img", name="Altitude and probability of track 2")
        expect(chart).to_have_attribute("aria-label", re.compile("now 44.0 km and 0.96, onset at 12:31:03.5 UTC"))
        expect(chart.locator("canvas")).to_have_count(2)
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        expect(page.locator("#chart-title")).to_have_text("Track 1 west")


def test_without_webgl_the_page_names_the_table_instead_of_the_globe(feed: PageFeed, opened: Open) -> None:
    with opened(feed.url) as there:
        page = there.connected(feed.key)
        expect(page.locator("track-globe .empty")).to_contain_text("The table shows the same tracks")
        feed.publish("update", {"feed": "west", "tracks": [point(1, 70)]})
        expect(page.locator("tbody th")).to_contain_text(["Track 1"])


def test_a_click_on_the_globe_selects_the_track_there(feed: PageFeed, opened: Open) -> None:
    with opened(feed.url, globe=True, reduced_motion="reduce") as there:
        page = there.connected(feed.key)
        for second in range(3):
            feed.publish("update", {"feed": "west", "tracks": [point(8, second, longitude=178.0)]})
        expect(page.locator("tbody th")).to_have_count(1)
        globe = page.get_by_role("region", name="Globe with the live tracks")
        box = globe.bounding_box()
        assert box is not None
        heading = page.locator("#chart-title")
        # The globe is drawn some frames after the table. A click before that hits the sea.
        for _ in range(40):
            page.get_by_role("button", name="Show all tracks").click()
            globe.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
            if heading.inner_text() != "Selected track":
                break
        expect(heading).to_have_text("Track 8 west")


def test_degraded_answers_are_marked(feed: PageFeed, opened: Open) -> None:
    with opened(feed.url) as there:
        page = there.connected(feed.key)
        answers = [point(1, 70, degraded=True), point(2, 70)]
        feed.publish("update", {"feed": "west", "tracks": answers})
        feed.publish("alert", alert(1, degraded=True))
        feed.publish("alert", alert(2))
        expect(page.locator("tbody tr", has_text="Track 1").locator(".degraded")).to_have_text("degraded")
        expect(page.locator("tbody tr", has_text="Track 2")).not_to_contain_text("degraded")
        expect(page.locator("alert-list ol > li", has_text="degraded")).to_have_count(1)
        expect(page.locator(".notices")).to_contain_text("Degraded: 1 track is answered by the altitude rule")
        page.get_by_role("button", name="Track 1", exact=True).click()
        expect(page.locator("#chart-title")).to_contain_text("degraded")
        feed.publish("update", {"feed": "west", "tracks": [point(1, 71)]})
        expect(page.locator(".notices")).not_to_contain_text("Degraded")


def answer_once(page: Page, *events: tuple[str, dict[str, Any]]) -> None:
    """Answer the first request for events in place of the gateway."""
    body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    page.route("**/v1/events", lambda route: route.fulfill(content_type="text/event-stream", body=body), times=1)


def test_lost_events_are_reported_until_the_notice_is_closed(feed: PageFeed, opened: Open) -> None:
    with opened(feed.url) as there:
        answer_once(there.page, ("lost", {"count": 40}), ("lost", {"count": 2}))
        page = there.connected(feed.key)
        expect(page.locator(".notices")).to_contain_text("missed 42 live updates")
        page.locator(".notices").get_by_role("button", name="Close").click()
        expect(page.locator(".notices")).to_have_text("")


def test_a_scored_track_is_shown_as_a_whole(feed: PageFeed, opened: Open) -> None:
    points = [point(9, second) for second in range(0, 100, 10)]
    columns = {name: [each[name] for each in points] for name in ("timestamp", "latitude", "longitude", "altitude")}
    answers = {name: [each[name] for each in points] for name in ("probability", "phase")}
    rest = {"onset_timestamp": ONSET, "model_version": "5", "degraded": False}
    with opened(feed.url) as there:
        answer_once(there.page, ("track", {"feed": "score", "track_id": 9, **columns, **answers, **rest}))
        page = there.connected(feed.key)
        page.get_by_role("button", name="Track 9", exact=True).click()
        expect(page.get_by_role("img", name="from 12:30:00.0 to 12:31:30.0 UTC: now 30.0 km")).to_be_visible()
        page.get_by_role("button", name="Last 2 minutes").click()
        expect(page.get_by_role("button", name="Last 2 minutes")).to_have_attribute("aria-pressed", "true")


def test_text_of_the_server_is_never_markup(feed: PageFeed, opened: Open) -> None:
    name = "<img src=/x onerror=alert(1)>"
    with opened(feed.url) as there:
        page = there.connected(feed.key)
        feed.publish("update", {"feed": name, "tracks": [point(1, 70)]})
        feed.publish("alert", alert(1, feed=name))
        expect(page.locator("alert-list .what")).to_contain_text(name)
        expect(page.locator("tbody .feed")).to_have_text(name)
        page.get_by_role("button", name="Track 1", exact=True).click()
        expect(page.locator("#chart-title")).to_contain_text(name)
        assert page.locator("img").count() == 0


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(feed: PageFeed, opened: Open, scheme: str, width: int) -> None:
    with opened(feed.url, globe=width > 1000, color_scheme=scheme, viewport={"width": width, "height": 800}) as there:
        assert axe_findings(there.page) == []
        page = there.connected(feed.key)
        publish_tracks(feed, [1, 2], range(0, 80, 10))
        feed.publish("update", {"feed": "west", "tracks": [point(1, 81, degraded=True)]})
        feed.publish("alert", alert(1, degraded=True))
        feed.publish("refinement", refinement(1, 2.0, ONSET - 1.5, 1.92))
        page.get_by_role("button", name="Track 1", exact=True).click()
        expect(page.get_by_role("img", name="Altitude and probability of track 1")).to_be_visible()
        assert axe_findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(("motion", "animations"), [("reduce", 0), ("no-preference", 1)])
def test_nothing_moves_for_those_who_prefer_reduced_motion(
    feed: PageFeed, opened: Open, motion: str, animations: int
) -> None:
    with Relay(feed.port) as relay, opened(relay.url, expected="Failed to load", reduced_motion=motion) as there:
        page = there.connected(feed.key)
        relay.cut()
        expect(page.get_by_role("status").first).to_contain_text("Connection lost")
        assert page.evaluate("document.getAnimations().length") == animations
