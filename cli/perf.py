"""`reentry perf`: measures a Triton server with perf_analyzer and compares measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.interruption import interruption
from cli.options import DEFAULT_REPOSITORY, Json, RepositoryFolder
from cli.tables import print_table

if TYPE_CHECKING:
    from perf.analyzer.compare import PerfComparison

perf = typer.Typer(
    no_args_is_help=True,
    help="Measure and tune a Triton server, and compare measurements.",
    epilog="Example: `reentry perf run --out artifacts/perf && reentry perf compare before/perf.json "
    "artifacts/perf/perf.json`, see docs/performance.md",
)


@perf.command()
def run(
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the table [perf]: models, protocols, batches, levels and more.")
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            help="Running server: grpc://HOST:PORT or http://HOST:PORT; may be given once for each.  "
            "[default: start an embedded server]",
            metavar="URL",
        ),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            help=f"Triton model repository, a folder. With --url, only the ceiling needs it.  "
            f"[default: {DEFAULT_REPOSITORY}; with --url none]"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of perf.csv, perf.json, perf.md and two plots.")] = (
        Path("artifacts/perf")
    ),
    slo: Annotated[
        str | None,
        typer.Option(
            help="Latency limit such as p99=10ms: search the highest load that holds it instead of measuring all.",
            metavar="LIMIT",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure throughput, latency and where the time goes, at each load of the configuration.

    The keys of the table [perf] are the fields of PerfConfig in perf/analyzer/config.py; docs/performance.md lists
    them. A load whose throughput or latency did not become stable is reported as unstable. The report compares the
    server with its ceiling: ONNX Runtime in this process, without a server. The exit status is 1 if a request failed,
    or if no load holds the limit of --slo. `reentry doctor` says what perf_analyzer lacks.

    Example: `reentry perf run --slo p99=10ms --out artifacts/perf`
    """
    from perf.analyzer.config import GRPC, HTTP, read_config
    from reentry.runtime.files import check_writable

    # Arguments are checked before the imports that take seconds.
    schemes = [scheme for scheme in (GRPC, HTTP) if any(each.startswith(f"{scheme}://") for each in url or [])]
    settings = read_config(config, protocols=schemes)

    from perf.analyzer.slo import Objective

    objective = None if slo is None else Objective.parse(slo)
    check_writable(out)
    place = repository if repository is not None or url else Path(DEFAULT_REPOSITORY)

    from perf.analyzer.report import as_dict, markdown, write_report
    from perf.analyzer.sweep import run_perf
    from reentry.runtime.signals import ended_by_signals

    with interruption("no report was written"), ended_by_signals():
        report = run_perf(settings, urls=url or [], repository=place, objective=objective)
        written = write_report(report, out)
    if as_json:
        typer.echo(json.dumps(as_dict(report)))
    else:
        typer.echo(markdown(report))
        typer.echo("\n".join(str(path) for path in written))
    if report.failed:
        raise typer.Exit(code=1)


@perf.command()
def tune(
    slo: Annotated[
        str | None,
        typer.Option(
            help="Latency limit such as p99=10ms that the settings must hold.  [default: the most tracks per second]",
            metavar="LIMIT",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to tune.  [default: that of --config, or reentry_track]")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with the tables [perf], for the clients, and [tune], for the settings to try."),
    ] = None,
    repository: RepositoryFolder = Path(DEFAULT_REPOSITORY),
    out: Annotated[
        Path, typer.Option(help="Folder of tune.csv, tune.json, tune.md and tuned.toml, and of unfinished work.")
    ] = Path("artifacts/tune"),
    as_json: Json = False,
) -> None:
    """Search the settings of a model that score the most tracks on this machine, within a latency limit.

    Starts an embedded server for each candidate: instances, threads, dynamic batching and its queue. Each is measured
    with each batch and concurrency of the clients. The best are then measured again in turns with the present settings.
    tuned.toml is written only if they are better by more than the noise; `reentry serve --tuned` and
    `reentry perf apply` use it. The model repository stays unchanged. After an interruption, the same command continues
    with the next candidate. The exit status is 1 if no settings hold the limit.

    Example: `reentry perf tune --slo p99=10ms --out artifacts/tune`
    """
    from perf.tuning.config import read_tune_config
    from reentry.runtime.files import check_writable

    settings, search = read_tune_config(config, model=model)

    from perf.analyzer.slo import Objective

    objective = None if slo is None else Objective.parse(slo)
    check_writable(out)

    from perf.tuning.report import as_dict, markdown, write_reports
    from perf.tuning.tune import JOURNAL
    from perf.tuning.tune import tune as run_search
    from reentry.runtime.signals import ended_by_signals

    with interruption(f"finished candidates are kept in {out / JOURNAL}"), ended_by_signals():
        report = run_search(settings, search, repository=repository, out=out, objective=objective)
        written = write_reports(report, out)
        (out / JOURNAL).unlink(missing_ok=True)
    if as_json:
        typer.echo(json.dumps(as_dict(report)))
    else:
        typer.echo(markdown(report))
        typer.echo("\n".join(str(path) for path in written))
    if report.best is None:
        raise typer.Exit(code=1)


@perf.command()
def apply(
    tuned: Annotated[Path, typer.Argument(metavar="FILE", help="tuned.toml that `reentry perf tune` wrote.")],
    repository: RepositoryFolder = Path(DEFAULT_REPOSITORY),
) -> None:
    """Write tuned settings into the config.pbtxt files of a model repository, for the official Triton container.

    Comments and all other fields stay. A running server has to load the models again. `reentry serve` needs
    `--tuned FILE` instead, because it fits instances and threads to its own machine.

    Example: `reentry perf apply artifacts/tune/tuned.toml --repository model_repository`
    """
    from perf.tuning.overlay import apply_to_repository

    changed = apply_to_repository(tuned, repository)
    typer.echo("\n".join(f"changed {path}" for path in changed) or "nothing to change")


@perf.command()
def overload(
    model: Annotated[str, typer.Option(help="Model to measure.")] = "reentry_track",
    url: Annotated[
        str | None,
        typer.Option(help="HTTP URL of a running server.  [default: start an embedded server]", metavar="URL"),
    ] = None,
    repository: RepositoryFolder = Path(DEFAULT_REPOSITORY),
    tuned: Annotated[
        Path | None, typer.Option(help="Tuned settings of the embedded server, as in `reentry serve`.", metavar="FILE")
    ] = None,
    factor: Annotated[float, typer.Option(help="Rate of the requests as a multiple of the capacity.")] = 2.0,
    seconds: Annotated[float, typer.Option(help="Duration of each part, s.")] = 5.0,
    out: Annotated[Path, typer.Option(help="Folder of overload.json and overload.md.")] = Path("artifacts/overload"),
    as_json: Json = False,
) -> None:
    """Measure what a server does with twice the requests that it can answer.

    Clients in a closed loop find the capacity. Then requests are sent at twice that rate, whether or not earlier ones
    are answered. The report has the accepted requests and their latency, the share that was refused, how fast, and the
    reason. It says so if the generator was late, because the latency is then not the server's.

    Example: `reentry perf overload --url http://127.0.0.1:8000`
    """
    from perf.overload import OverloadConfig, as_dict, markdown, measure_overload, write_reports
    from reentry.runtime.files import check_writable
    from reentry.runtime.signals import ended_by_signals

    config = OverloadConfig(model=model, factor=factor, seconds=seconds)
    check_writable(out)
    with interruption("no report was written"), ended_by_signals():
        report = measure_overload(config, url=url, repository=repository, tuned=tuned)
        written = write_reports(report, out)
    if as_json:
        typer.echo(json.dumps(as_dict(report)))
    else:
        typer.echo(markdown(report))
        typer.echo("\n".join(str(path) for path in written))


@perf.command()
def stream(
    mode: Annotated[
        str, typer.Option(help="scan: a request has the measurements of all tracks of a feed; tracks: one measurement.")
    ] = "scan",
    tracks: Annotated[int, typer.Option(help="Number of live tracks.")] = 5_000,
    rate: Annotated[
        str,
        typer.Option(help="Measurements per second of each track; max: a closed loop.", metavar="HZ"),
    ] = "2",
    duration: Annotated[float, typer.Option(help="Duration of the measured part, s.")] = 60.0,
    feeds: Annotated[int, typer.Option(help="Number of feeds, one gRPC stream each, that share the tracks.")] = 1,
    in_flight: Annotated[
        int | None,
        typer.Option(help="Requests in flight with --rate max.  [default: 64; with --mode scan 2 for each feed]"),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="gRPC URL of a running server.  [default: start an embedded server]", metavar="URL"),
    ] = None,
    repository: RepositoryFolder = Path(DEFAULT_REPOSITORY),
    out: Annotated[Path, typer.Option(help="Folder of stream.json and stream.md.")] = Path("artifacts/stream"),
    as_json: Json = False,
) -> None:
    """Replay simulated live tracks at their pace, and measure latency, throughput, stalls and memory.

    Latencies count from the time at which a request was due, so that a wait behind a slow answer is included. The
    report says so if the generator was late. Every measurement must be accepted, and the probabilities of some tracks
    must equal those of the whole tracks. The exit status is 1 if an answer is wrong or missing.

    Example: `reentry perf stream --tracks 5000 --rate 2 --duration 300`
    """
    from perf.stream.config import StreamConfig, parse_rate
    from reentry.runtime.files import check_writable

    config = StreamConfig(
        mode=mode,  # type: ignore[arg-type]  # checked by the configuration
        tracks=tracks,
        rate=parse_rate(rate),
        duration=duration,
        feeds=feeds,
        in_flight=in_flight,
    )
    check_writable(out)

    from perf.stream.measure import measure_stream
    from perf.stream.report import markdown, write_reports
    from reentry.runtime.signals import ended_by_signals

    with interruption("no report was written"), ended_by_signals():
        report = measure_stream(config, url=url, repository=repository)
        written = write_reports(report, out)
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        typer.echo(markdown(report))
        typer.echo("\n".join(str(path) for path in written))
    if report.failed:
        raise typer.Exit(code=1)


@perf.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="perf.json of the measurement to compare with.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="perf.json of the new measurement.")],
    threshold: Annotated[
        str, typer.Option(help="Loss of throughput, or increase of p99, from which B is a regression.")
    ] = "5%",
    force: Annotated[
        bool, typer.Option("--force", help="Compare measurements with other settings or of another machine.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare two measurements; the exit status is 1 if B is a regression.

    A workload is judged if it is stable in both. It is also a regression if a request failed in B only.

    Example: `reentry perf compare before/perf.json after/perf.json --threshold 5%`
    """
    from dataclasses import asdict

    from perf.analyzer.compare import compare_files, parse_threshold

    found = compare_files(first, second, threshold=parse_threshold(threshold), force=force)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        _print_comparison(found)
    if found.regressions:
        raise typer.Exit(code=1)


def _print_comparison(found: PerfComparison) -> None:
    for name, (old, new) in found.differences.items():
        typer.echo(f"different: {name}: {old} and {new}")
    print_table(
        ("workload", "tracks/s A", "tracks/s B", "change", "p99 A, ms", "p99 B, ms", "change", "result"),
        (
            (str(each.workload), *_cells(each.throughput, ",.0f"), *_cells(each.p99, ".2f"), each.verdict)
            for each in found.workloads
        ),
    )
    for name in found.only_one:
        typer.echo(f"in one measurement only: {name}")
    typer.echo(f"{len(found.regressions)} of {len(found.workloads)} workloads are worse")


def _cells(pair: tuple[float, float] | None, form: str) -> tuple[str, str, str]:
    if pair is None:
        return "-", "-", "-"
    old, new = pair
    return f"{old:{form}}", f"{new:{form}}", f"{new / old - 1:+.1%}" if old else "-"
