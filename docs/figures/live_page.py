"""Draws live-page.png: the live page with simulated flights and the answers of the installed model.

Run after `make page`, with a version in production whose network uses the orbit filter, for the refined onsets:
python -m docs.figures.live_page [--repository model_repository] [--scheme dark] [--width 1440] [--out live-page.png]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from playwright.sync_api import Page, expect, sync_playwright

from reentry.simulation import BallisticConfig, ShotConfig, of_severity, simulate_ballistic
from tests.gateway_servers import running_gateway
from tests.page_feed import PageFeed

FEED = "west"
FLIGHTS = BallisticConfig(
    tracks=40,
    seed=4,
    labels=False,
    launch_interval=14.0,
    shots=ShotConfig(distance=(900_000.0, 6_000_000.0), latitude=(5.0, 65.0)),
    sensors=of_severity(1),
)
LONGITUDES = (-70.0, 60.0)
"""Longitudes of the launches that are kept, degrees, so that most tracks are on one side of the globe."""
PICTURED_AT = 1_731_308_400.0 + 1_318.0
"""Time of the picture, Unix time, s."""
BROWSER = Path("/usr/bin/chromium")


def answers(folder: Path, repository: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Score the flights as whole tracks and as live ones. Return the scored rows, and the alerts with refinements."""
    tracks, alerts = folder / "tracks.csv", folder / "alerts.jsonl"
    table = simulate_ballistic(FLIGHTS)
    launch = table.groupby("track_id")["longitude"].transform("first")
    table = table[launch.between(*LONGITUDES)]
    table.to_csv(tracks, index=False)
    server = ["--start-server", "--repository", str(repository)]
    reentry = [sys.executable, "-c", "from cli import main; main()"]
    subprocess.run([*reentry, "predict", str(tracks), *server, "--out", str(folder)], check=True)
    stream = ["stream", str(tracks), *server, "--rate", "max", "--name", FEED, "--alerts", str(alerts)]
    subprocess.run([*reentry, *stream], check=True)
    events = [json.loads(line) for line in alerts.read_text().splitlines()]
    rows = pd.read_csv(folder / "predictions.csv").drop(columns=["sensor_id", "radiometric_intensity"])
    return rows.rename(columns={"reentry_probability": "probability", "reentry_phase": "phase"}), events


def publish(feed: PageFeed, rows: pd.DataFrame, events: list[dict[str, Any]]) -> None:
    """Publish all answers up to the time of the picture, in the order of time."""
    onsets = {event["track_id"]: event["onset_timestamp"] for event in events if event["event"] == "alert"}
    rows = rows[rows["timestamp"] <= PICTURED_AT].sort_values("timestamp")
    for _, second in rows.groupby(rows["timestamp"].floordiv(10)):
        points = second.to_dict("records")
        for point in points:
            onset = onsets.get(point["track_id"])
            point["onset_timestamp"] = onset if onset is not None and onset <= point["timestamp"] else None
            point |= {"model_version": events[0]["model_version"], "degraded": False}
        feed.publish("update", {"feed": FEED, "tracks": points})
    for event in events:
        known_at = event.get("detected_at", event["onset_timestamp"] + event.get("hindsight_seconds", 0.0))
        if known_at <= PICTURED_AT:
            kind = event.pop("event")
            feed.publish(kind, event | ({"degraded": False} if kind == "alert" else {}))


def picture(page: Page, feed: PageFeed, rows: pd.DataFrame, events: list[dict[str, Any]], path: Path) -> None:
    """Open the page, publish the answers, select the track of the last alert but one, and take the picture."""
    page.goto(feed.url)
    page.get_by_label("Key", exact=True).fill(feed.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_have_text("Live")
    publish(feed, rows, events)
    page.locator("alert-list ol > li > button").nth(1).click()
    page.get_by_role("button", name="Last 2 minutes").click()
    page.get_by_role("button", name="Show all tracks").click()
    page.mouse.move(1, 1)
    page.wait_for_timeout(4000)
    page.screenshot(path=path, full_page=True)


def main() -> None:
    """Score the flights and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--scheme", default="dark", choices=["dark", "light"])
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("live-page.png"))
    given = parser.parse_args()
    arguments = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
    with tempfile.TemporaryDirectory() as name, running_gateway(Path(name)) as gateway, sync_playwright() as playwright:
        rows, events = answers(Path(name), given.repository)
        browser = playwright.chromium.launch(executable_path=BROWSER, args=arguments)
        size = {"width": given.width, "height": 900}
        page = browser.new_page(viewport=size, color_scheme=given.scheme, reduced_motion="reduce")
        picture(page, PageFeed(gateway), rows, events, given.out)
        browser.close()


if __name__ == "__main__":
    main()
