"""Invalid command lines for every command, and the folder of broken files that they name.

`tests/unit/cli/test_bad_input.py` runs the written cases in its own process. `make matrix` (`python -m
tests.bad_input`) runs all cases as separate processes.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from typer.core import TyperGroup, TyperOption

from cli import app
from registry.open import open_store
from registry.promotion import promote
from tests.exporting import checkpoint_of
from tests.training_data import write_flights
from tests.versions import bare_repository, install
from training.checkpoint import save_checkpoint
from training.config import ModelConfig

DEADLINE = 120.0
"""Time limit of a command, s; a working command needs less than a tenth of it."""

DEEP = 100_000
"""Number of nesting levels that exceeds the stack of a recursive parser."""

NO_SERVER = "127.0.0.1:9"
"""Address at which no server listens."""


@dataclass(frozen=True, slots=True)
class Case:
    """One command line and its expected result."""

    arguments: tuple[str, ...]
    codes: tuple[int, ...]
    """Accepted exit codes."""
    phrase: str = ""
    """Text that the error line must contain."""

    def __str__(self) -> str:
        return " ".join(argument[:60] for argument in self.arguments).replace("/", "|")


@dataclass(frozen=True, slots=True)
class Ending:
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str

    def faults(self, case: Case) -> list[str]:
        """Return all deviations from the expected result of the case."""
        found = []
        if self.code not in case.codes:
            found.append(f"exit code {self.code}, expected {case.codes}")
        if "Traceback" in self.stderr + self.stdout:
            found.append("a traceback")
        if self.code == 1:
            errors = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
            if len(errors) != 1 or self.stderr.count("\n") != 1:
                found.append("standard error is not one line that starts with `error: `")
        if len(self.stderr) > 4_000:
            found.append(f"{len(self.stderr)} characters on standard error")
        if case.phrase not in " ".join(self.stderr.split()):
            found.append(f"standard error lacks {case.phrase!r}")
        return found


class _Poison:
    """Creates the file `poisoned` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("poisoned",))


def make_world(folder: Path) -> None:
    """Create the valid and broken files that the cases name by relative paths."""
    (folder / "temporary").mkdir()
    write_flights(folder / "good.csv", 3)
    write_flights(folder / "good.parquet", 3)
    write_flights(folder / "unlabelled.csv", 3, labels=False)
    (folder / "empty.csv").touch()
    (folder / "header.csv").write_text((folder / "good.csv").read_text().splitlines()[0] + "\n")
    (folder / "text.csv").write_text("hello\nworld\n")
    (folder / "binary.csv").write_bytes(bytes(range(256)) * 20)
    (folder / "broken.parquet").write_bytes(b"PAR1" + bytes(range(256)) + b"PAR1")
    (folder / "folder.csv").mkdir()
    (folder / "folder.ckpt").mkdir()
    (folder / "folder.toml").mkdir()
    (folder / "file").write_text("a file\n")
    for suffix in ("csv", "ckpt", "toml"):
        (folder / f"loop.{suffix}").symlink_to(f"loop.{suffix}")
        (folder / f"dangling.{suffix}").symlink_to(f"missing.{suffix}")
        (folder / f"zero.{suffix}").symlink_to("/dev/zero")
    (folder / "occupied" / "model.ckpt").mkdir(parents=True)
    _make_checkpoints(folder)
    _make_settings(folder)
    _make_repositories(folder)


def _make_checkpoints(folder: Path) -> None:
    save_checkpoint(folder / "model.ckpt", checkpoint_of(ModelConfig()))
    content = torch.load(folder / "model.ckpt", weights_only=True)
    with (folder / "pickle.ckpt").open("wb") as file:
        pickle.dump(_Poison(), file)
    torch.save({**content, "metrics": _Poison()}, folder / "poisoned.ckpt")
    (folder / "random.ckpt").write_bytes(bytes(range(256)) * 40)
    (folder / "empty.ckpt").touch()
    (folder / "cut.ckpt").write_bytes((folder / "model.ckpt").read_bytes()[:-300])
    torch.save(["a list"], folder / "list.ckpt")
    for name, entries in HAND_MADE.items():
        torch.save({**content, **entries}, folder / f"{name}.ckpt")
    for name in ("weights", "schema_version", "model_config"):
        torch.save({key: value for key, value in content.items() if key != name}, folder / f"without_{name}.ckpt")
    weights = {name: torch.full(value.shape, float("nan")) for name, value in content["weights"].items()}
    torch.save({**content, "weights": weights}, folder / "nan_weights.ckpt")
    weights = {name: value[..., :1] for name, value in content["weights"].items()}
    torch.save({**content, "weights": weights}, folder / "cut_weights.ckpt")
    weights = dict.fromkeys(content["weights"], "text")
    torch.save({**content, "weights": weights}, folder / "text_weights.ckpt")


HAND_MADE: dict[str, dict[str, Any]] = {
    "kind_list": {"kind": ["reentry checkpoint"]},
    "features_none": {"features": None},
    "features_numbers": {"features": [1, 2]},
    "features_number": {"features": 7},
    "schema_text": {"schema_version": "x"},
    "config_list": {"model_config": [1]},
    "config_text": {"model_config": {"hidden": "16"}},
    "config_wide": {"model_config": {"hidden": 8_192, "layers": 30}},
    "config_deep": {"model_config": {"layers": 100_000}},
    "config_nan": {"model_config": {"dropout": float("nan")}},
    "config_features": {"model_config": {"features": 3}},
    "config_number_names": {"model_config": {1: 2}},
    "train_text": {"train_config": {"epochs": "many"}},
    "train_none": {"train_config": None},
    "decision_text": {"decision": {"enter": "high"}},
    "decision_nan": {"decision": {"enter": float("nan")}},
    "decision_list": {"decision": []},
    "metrics_number": {"metrics": 3},
    "metrics_list": {"metrics": ["f1"]},
    "metrics_text": {"metrics": {"f1": "good"}},
    "validation_number": {"validation_tracks": 3},
    "validation_text": {"validation_tracks": ["a"]},
    "fingerprint_number": {"data_fingerprint": 3},
    "fingerprint_list": {"data_file_fingerprint": ["x"]},
    "table_text": {"data_table": "lake:features@1"},
    "table_list": {"data_table": {"version": [1]}},
    "revision_list": {"git_revision": ["x"]},
    "flights_number": {"trained_flights": 3},
    "flights_nested": {"trained_flights": [["a"]]},
    "rows_text": {"trained_rows": "rows"},
    "rows_shape": {"trained_rows": torch.zeros(3)},
    "reference_text": {"reference": "x"},
    "reference_list": {"reference": [1]},
    "reference_empty": {"reference": {"schema_version": None}},
    "weights_list": {"weights": [1]},
    "weights_none": {"weights": None},
}
"""Invalid entries of hand-made checkpoints, by file name."""

SETTINGS: dict[str, str] = {
    "cut": "[model\n",
    "table": "[nothing]\n",
    "key": "[model]\nwidth = 3\n",
    "type": "[model]\nhidden = 'wide'\n",
    "model_number": "model = 3\n",
    "deep_list": "[model]\nharmonics = " + "[" * 20_000 + "]" * 20_000 + "\n",
    "deep_table": "model = " + "{a = " * 10_000 + "1" + "}" * 10_000 + "\n",
    "long_key": "a." * DEEP + "b = 1\n",
    "layers": "[model]\nlayers = 100000\n",
    "layers_huge": f"[model]\nlayers = {10**30}\n",
    "wide": "[model]\nhidden = 8192\nlayers = 30\n",
    "kernel": "[model]\nkind = 'convolution'\nkernel = 1000000\nhidden = 8192\n",
    "dropout": "[model]\ndropout = nan\n",
    "rate": "[train]\nlearning_rate = inf\n",
    "rate_nan": "[train]\nlearning_rate = nan\n",
    "epochs": f"[train]\nepochs = {10**400}\n",
    "digits": "[train]\nepochs = " + "9" * 5_000 + "\n",
    "date": "[train]\nepochs = 2020-01-01\n",
    "seed": "[train]\nseed = -1\n",
    "share": "[train]\nvalidation_share = 1\n",
    "devices": "[train]\ndevices = 100000\n",
    "trapezoid_step": "[trapezoid]\nstep = nan\n",
    "trapezoid_noise": "[trapezoid]\nnoise = inf\n",
    "trapezoid_noise_huge": "[trapezoid]\nnoise = 1e300\n",
    "trapezoid_longest": f"[trapezoid]\nlongest = {10**30}\n",
    "trapezoid_site": "[trapezoid]\nlaunch_site = [nan, nan]\n",
    "trapezoid_sensor": f"[trapezoid]\nsensor = {10**30}\n",
    "trapezoid_launch": "[trapezoid]\nfirst_launch = inf\n",
    "trapezoid_interval": "[trapezoid]\nlaunch_interval = 1e300\n",
    "shots_distance": "[shots]\ndistance = [nan, nan]\n",
    "shots_failed": "[shots]\nfailed = inf\n",
    "sensors_missing": "[sensors]\nmissing = nan\n",
    "sensors_burst": "[sensors]\nburst = [1, inf]\n",
    "ballistic_step": "[ballistic]\nstep = 0\n",
    "perf_protocol": "[perf]\nprotocols = ['udp']\n",
    "perf_window": "[perf]\nwindow = nan\n",
    "perf_rates": "[perf]\nrates = [inf]\n",
    "perf_length": "[perf]\nlengths = ['٩٠٠']\n",
    "perf_batch": f"[perf]\nbatches = [{10**30}]\n",
    "perf_empty": "[perf]\nconcurrency = []\n",
}
"""Texts of invalid settings files, by file name."""

LABELS: dict[str, str] = {
    "deep": "[" * DEEP + "]" * DEEP,
    "deep_object": '{"a":' * DEEP + "1" + "}" * DEEP,
    "list": "[]",
    "number": "3",
    "cut": '{"production": 1',
    "zero": '{"production": 0, "candidate": null, "history": []}',
    "text": '{"production": "1", "candidate": null, "history": []}',
    "huge": '{"production": 1' + "0" * 30 + ', "candidate": null, "history": []}',
    "digits": '{"production": 1' + "0" * 5_000 + ', "candidate": null, "history": []}',
    "history_number": '{"production": 1, "candidate": null, "history": 3}',
    "history_text": '{"production": 1, "candidate": null, "history": ["x"]}',
    "history_kind": '{"production": 1, "candidate": null, "history": [{"version": 1, "kind": "x", "overridden": []}]}',
    "history_types": json.dumps(
        {
            "production": 1,
            "candidate": None,
            "history": [
                {
                    "version": 1,
                    "previous": ["x"],
                    "kind": "promote",
                    "date": 3,
                    "metric": "low",
                    "previous_metric": None,
                    "overridden": [1],
                }
            ],
        }
    ),
}
"""Invalid texts of labels.json, by the name of the repository."""

MANIFESTS: dict[str, str] = {
    "deep": "[" * DEEP + "]" * DEEP,
    "list": "[]",
    "cut": "{",
    "digits": "1" * 5_000,
    "version": '{"version": 1e400}',
}
"""Invalid texts of manifest.json, by the name of the repository."""

CONFIGS: dict[str, str] = {
    "cut": "name: ",
    "text": "hello world",
    "deep": "ensemble_scheduling { step { input_map { " * 2_000,
    "field": "nothing: 3",
    "version": 'name: "reentry_lstm" version_policy: { specific: { versions: [99999999999999999999] } }',
}
"""Invalid texts of config.pbtxt, by the name of the repository."""


def _make_settings(folder: Path) -> None:
    for name, text in SETTINGS.items():
        (folder / f"{name}.toml").write_text(text)
    (folder / "latin.toml").write_bytes(b"[model]\nkind = '\xe9'\n")


def _make_repositories(folder: Path) -> None:
    def make_repository(name: str) -> Path:
        parent = folder / name
        parent.mkdir()
        repository = bare_repository(parent)
        install(repository, parent, 1)
        promote(open_store(repository), 1)
        return repository / "reentry_lstm"

    make_repository("good")
    for name, text in LABELS.items():
        (make_repository(f"labels_{name}") / "labels.json").write_text(text)
    for name, text in MANIFESTS.items():
        (make_repository(f"manifest_{name}") / "1" / "manifest.json").write_text(text)
    for name, text in CONFIGS.items():
        (make_repository(f"config_{name}") / "config.pbtxt").write_text(text)
    (make_repository("labels_latin") / "labels.json").write_bytes(b"\xff\xfe\x00")
    (make_repository("labels_folder") / "labels.json").unlink()
    (folder / "labels_folder/repository/reentry_lstm/labels.json").mkdir()
    (make_repository("config_latin") / "config.pbtxt").write_bytes(b"\xff\xfe\x00")
    (make_repository("digits") / ("1" + "0" * 19)).mkdir()
    (folder / "digits/repository/reentry_lstm" / ("1" + "0" * 19) / "model.onnx").write_bytes(b"x")
    (make_repository("no_version") / "1").rename(folder / "no_version" / "away")
    (folder / "not_a_repository").mkdir()


def _paths(suffix: str) -> dict[str, str]:
    return {
        f"missing.{suffix}": "no such file",
        f"folder.{suffix}": "",
        f"loop.{suffix}": "",
        f"dangling.{suffix}": "no such file",
        f"zero.{suffix}": "",
        f"file/x.{suffix}": "",
        "x" * 300 + f".{suffix}": "",
        f"missing\n.{suffix}": "",
        "": "",
    }


def written_cases() -> Iterator[Case]:
    """Yield the cases whose error is specified."""
    yield from _usage()
    yield from _track_files()
    yield from _checkpoints()
    yield from _settings()
    yield from _numbers()
    yield from _urls()
    yield from _repositories()
    yield from _places()


def _usage() -> Iterator[Case]:
    commands = ("simulate", "train", "evaluate", "study", "export", "serve", "predict", "doctor")
    commands += ("runs list", "runs compare", "repository list", "repository show", "repository promote")
    commands += ("repository rollback", "repository prune", "repository diff", "engine prepare", "engine install")
    commands += ("perf run", "perf tune", "perf apply", "perf overload", "perf compare")
    for command in commands:
        yield Case((*command.split(), "--nothing"), (2,), "No such option")
    for command in (
        "simulate",
        "train",
        "evaluate",
        "export",
        "predict",
        "runs compare",
        "repository show",
        "perf compare",
    ):
        yield Case((*command.split(),), (2,), "Missing argument")
    for command in ("engine prepare", "engine install"):
        yield Case((*command.split(),), (2,), "Missing option")
    for command in (
        "simulate a.csv b.csv",
        "train a.csv b.csv",
        "predict a.csv b.csv",
        "study x",
        "serve x",
        "doctor x",
        "perf run x",
    ):
        yield Case(tuple(command.split()), (2,), "unexpected extra argument")
    yield Case(("nothing",), (2,), "No such command")
    yield Case(("repository", "nothing"), (2,), "No such command")
    yield Case(("runs", "nothing"), (2,), "No such command")
    yield Case(("perf", "nothing"), (2,), "No such command")
    yield Case(("perf", "compare", "report.json"), (2,), "Missing argument")
    for slo in ("", "p99", "p99=10", "p98=10ms", "p99=0ms", "p99=1e9s", "p٩٩=10ms"):
        yield Case(("perf", "run", "--slo", slo), (1,), "invalid objective")
        yield Case(("perf", "tune", "--slo", slo), (1,), "invalid objective")
    for threshold in ("", "5", "0%", "100%", "nan%", "5 %"):
        yield Case(("perf", "compare", "missing.json", "missing.json", "--threshold", threshold), (1,), "threshold")
    yield Case(("runs", "compare", "one"), (2,), "two runs or more")
    yield Case(("runs", "compare", "one", "other"), (1,), "no run one")
    yield Case(("serve", "--model-control-mode", "x"), (2,), "Invalid value")
    yield Case(("export", "model.ckpt", "--format", "x"), (1,), "no such format")
    yield Case(("export", "model.ckpt", "--format", ","), (1,), "format")
    yield Case(("simulate", "x.csv", "--profile", "x"), (1,), "no such profile")


def _track_files() -> Iterator[Case]:
    for path, phrase in _paths("csv").items():
        for command in (
            ("train",),
            ("evaluate", "model.ckpt"),
            ("predict", "--patience", "0", "--url", f"grpc://{NO_SERVER}"),
        ):
            yield Case((*command, path), (1,), phrase)
        yield Case(("export", "model.ckpt", "--repository", "good/repository", "--data", path), (1,), phrase)
    for path in ("empty.csv", "header.csv", "text.csv", "binary.csv", "broken.parquet", "model.ckpt", "file"):
        for command in (("train",), ("evaluate", "model.ckpt"), ("predict",)):
            yield Case((*command, path), (1,), path)
    for command in (("train",), ("evaluate", "model.ckpt")):
        yield Case((*command, "unlabelled.csv"), (1,), "reentry_phase")


def _checkpoints() -> Iterator[Case]:
    for path, phrase in _paths("ckpt").items():
        yield Case(("evaluate", path, "good.csv"), (1,), phrase)
        yield Case(("export", path, "--repository", "good/repository"), (1,), phrase)
    for name in ("pickle", "poisoned", "random", "empty", "cut", "list"):
        yield Case(("evaluate", f"{name}.ckpt", "good.csv"), (1,), "not a checkpoint")
        yield Case(("export", f"{name}.ckpt", "--repository", "good/repository"), (1,), "not a checkpoint")
    wrong = (*HAND_MADE, "without_weights", "without_schema_version", "without_model_config")
    wrong += ("nan_weights", "cut_weights", "text_weights")
    for name in wrong:
        yield Case(("evaluate", f"{name}.ckpt", "good.csv"), (1,), "checkpoint")


def _settings() -> Iterator[Case]:
    for path, phrase in _paths("json").items():
        yield Case(("perf", "compare", path, path), (1,), phrase)
    for path in ("empty.csv", "binary.csv", "good.csv", "model.ckpt"):
        yield Case(("perf", "compare", path, path), (1,), "not a report")
    for path, phrase in _paths("toml").items():
        if path:
            yield Case(("train", "good.csv", "--config", path), (1,), phrase)
            yield Case(("simulate", "x.csv", "--config", path), (1,), phrase)
            yield Case(("perf", "run", "--config", path), (1,), phrase)
    for name in (*SETTINGS, "latin"):
        if name.startswith(("shots", "sensors", "ballistic")):
            yield Case(
                ("simulate", "x.csv", "--profile", "ballistic", "--config", f"{name}.toml"), (1,), "out of range"
            )
        elif name.startswith("trapezoid"):
            yield Case(("simulate", "x.csv", "--config", f"{name}.toml"), (1,), "out of range")
        elif name.startswith("perf"):
            yield Case(("perf", "run", "--config", f"{name}.toml"), (1,))
        else:
            yield Case(("train", "good.csv", "--config", f"{name}.toml"), (1,))


_INVALID_COUNTS = ("0", "-1", str(10**30), str(-(10**30)))
_NON_INTEGERS = ("x", "1.5", "9" * 5_000)
_INVALID_SECONDS = ("nan", "inf", "-inf", "-1", "1e300")
_NON_NUMBERS = ("x", "1s")


def _numbers() -> Iterator[Case]:
    predict = ("predict", "missing.csv")
    counts = (
        (("simulate", "x.csv"), "--tracks", "tracks"),
        (("simulate", "x.csv"), "--processes", "processes"),
        (("train", "missing.csv"), "--epochs", "epochs"),
        (("train", "missing.csv"), "--hidden", "hidden"),
        (("train", "missing.csv"), "--devices", "devices"),
        (("evaluate", "model.ckpt", "missing.csv"), "--seeds", "seeds"),
        (("study",), "--seeds", "seeds"),
        (predict, "--concurrency", "requests in flight"),
        (predict, "--batch", "tracks in one request"),
        (("serve", "--repository", "missing"), "--instances", "instances"),
        (("serve", "--repository", "missing"), "--threads", "threads"),
        (("doctor", "--repository", "missing"), "--instances", "instances"),
        (("doctor", "--repository", "missing"), "--threads", "threads"),
    )
    for command, option, name in counts:
        for value in _INVALID_COUNTS:
            yield Case((*command, option, value), (1,), f"{name}")
        for value in _NON_INTEGERS:
            yield Case((*command, option, value), (2,), "Invalid value")
    for value in ("-1", str(10**30)):
        yield Case(("simulate", "x.csv", "--seed", value), (1,), "seed out of range")
        yield Case(("train", "missing.csv", "--seed", value), (1,), "seed out of range")
        yield Case(("simulate", "x.csv", "--profile", "ballistic", "--severity", value), (1,), "severity out of range")
        for option in ("--http-port", "--grpc-port", "--metrics-port"):
            for server in ("serve", "doctor"):
                yield Case((server, "--repository", "missing", option, value), (1,), "port out of range")
    for option, name, command in (
        ("--patience", "patience", predict),
        ("--drain-timeout", "drain_timeout", ("serve", "--repository", "missing")),
    ):
        for value in _INVALID_SECONDS:
            yield Case((*command, option, value), (1,), name)
        for value in _NON_NUMBERS:
            yield Case((*command, option, value), (2,), "Invalid value")
    yield Case(("serve", "--repository", "missing", "--drain-timeout", "0"), (1,), "drain_timeout")
    for value in ("x", "1.2.3", "::1", "localhost", "256.1.1.1", ""):
        yield Case(("serve", "--repository", "missing", "--address", value), (1,), "address")
    for value in ("0", str(10**30)):
        yield Case(("study", "--processes", value), (1,), "processes out of range")
    yield Case(("repository", "prune", "--repository", "good/repository", "--keep", "-1"), (2,), "Invalid value")
    for value in ("0", "-1", "7", str(10**30)):
        arguments = ("repository", "rollback", "--repository", "good/repository", "--to", value)
        yield Case(arguments, (1,), "was not in production")


_URLS = (
    "",
    "x",
    "127.0.0.1:8001",
    "ftp://127.0.0.1",
    "http://",
    "http://[::1",
    "http://[::1]]:8000",
    "http://[x]:8000",
    "http://[::1]x:8000",
    "http://host:port",
    "http://host:99999",
    "http://host:-1",
    "http://host:0",
    "http://:8000",
    "http://user:password@host:8000",
    "http://host:8000/v2",
    "http://host:8000?x=1",
    "http://host:8000#x",
    "http://ho st:8000",
    "http://ho\nst:8000",
    "http://ho\tst:8000",
    "http://" + "x" * 300 + ":8000",
    "http://\u2100:8000",
    "http://host:٣٣",
    "http://..:8000",
)


def _urls() -> Iterator[Case]:
    for url in _URLS:
        yield Case(("predict", "missing.csv", "--url", url), (1,), "URL of a Triton server")
        yield Case(("perf", "run", "--url", url), (1,), "URL of a Triton server")
        if url.startswith("http"):
            grpc = url.replace("http", "grpc", 1)
            yield Case(("predict", "missing.csv", "--url", grpc), (1,), "URL of a Triton server")
        place = ("--repository", "good/repository")
        yield Case(("repository", "diff", *place, "--url", url), (1,), "address of a Triton server")
    for scheme in ("grpc", "http"):
        arguments = ("predict", "good.csv", "--patience", "0", "--url", f"{scheme}://{NO_SERVER}", "--out", "journal")
        yield Case(arguments, (1,), "no answer from the server")
    place = ("--repository", "good/repository", "--url", f"http://{NO_SERVER}")
    for command in (("diff",), ("promote", "1"), ("rollback",)):
        yield Case(("repository", *command, *place), (1,))


def _repositories() -> Iterator[Case]:
    commands = (("list",), ("show", "1"), ("promote", "1"), ("rollback",), ("prune",), ("diff", "1", "1"))
    places = ("missing", "file", "folder.csv", "loop.csv", "not_a_repository", "x" * 300, "s3://", "ftp://x/y", "")
    for place in places:
        for command in commands:
            yield Case(("repository", *command, "--repository", place), (1,))
        yield Case(("export", "model.ckpt", "--repository", place), (1,))
    for place in (*places, "config_cut/repository", "no_version/repository", "digits/repository"):
        if "://" not in place:
            yield Case(("serve", "--repository", place), (1,))
            yield Case(("predict", "good.csv", "--start-server", "--repository", place), (1,))
    for name in (*LABELS, "latin", "folder"):
        for command in (("list",), ("promote", "1")):
            codes = (0, 1) if name in ("huge", "history_types") else (1,)
            yield Case(("repository", *command, "--repository", f"labels_{name}/repository"), codes)
    for name in MANIFESTS:
        for command in (("promote", "1"), ("diff", "1", "1")):
            codes = (0, 1) if command[0] == "promote" else (1,)
            yield Case(("repository", *command, "--repository", f"manifest_{name}/repository"), codes)
    for name in (*CONFIGS, "latin"):
        for command in (("promote", "1"), ("rollback",), ("list",)):
            yield Case(("repository", *command, "--repository", f"config_{name}/repository"), (1,))
    for name in ("0", "-1", "2", "x", "", "1.0", "٣", "²", str(10**30), "production ", "../1", "Candidate"):
        for command in ("show", "promote"):
            codes = (2,) if name == "-1" else (1,)
            yield Case(("repository", command, "--repository", "good/repository", name), codes)
    for place in places:
        if "://" not in place:
            yield Case(("engine", "prepare", "--work", "work", "--repository", place), (1,))
            yield Case(("engine", "install", "--work", place), (1,))


def _places() -> Iterator[Case]:
    """Yield the cases whose output cannot be written, or would overwrite something else."""
    for out in ("file", "file/x", "loop.csv", "loop.csv/x", "/dev/null", "/proc/x", "x" * 300):
        yield Case(("train", "good.csv", "--out", out), (1,), "cannot be written")
        yield Case(("evaluate", "model.ckpt", "good.csv", "--out", out), (1,), "cannot be written")
        yield Case(("study", "--out", out), (1,), "cannot be written")
        yield Case(("perf", "run", "--out", out), (1,), "cannot be written")
        yield Case(
            ("predict", "good.csv", "--url", f"grpc://{NO_SERVER}", "--patience", "0", "--out", out), (1,), "cannot"
        )
        yield Case(("serve", "--repository", "good/repository", "--log-dir", out), (1,))
    for out in (
        "file",
        "file/x.csv",
        "folder.csv",
        "x.txt",
        "x",
        "",
        "x" * 300 + ".csv",
        "/proc/x.csv",
        "loop.csv/x.csv",
    ):
        yield Case(("simulate", out, "--tracks", "1"), (1,))
    yield Case(("train", "good.csv", "--out", "occupied"), (1,), "model.ckpt")


def generated_cases() -> Iterator[Case]:
    """Yield every option of every command with many invalid values.

    The options are taken from the command line itself, so that a new option is included automatically. The files and
    folders that the commands need are missing, so that an accepted value leads to an error as well.
    """
    values = (
        *_INVALID_COUNTS,
        *_NON_INTEGERS,
        *_INVALID_SECONDS,
        *_NON_NUMBERS,
        "",
        "1e3",
        "0x10",
        "1,5",
        "1e400",
        "٣",
        " 7 ",
        "1_000",
        "-0",
        "-0.0",
    )
    for name, command in _commands(typer.main.get_command(app), ()):
        for option in command.params:
            if not isinstance(option, TyperOption):
                continue
            start, kind = (*name, *_MISSING[name]), str(option.type_descriptor.annotation)
            if option.is_flag:
                yield Case((*start, f"{option.opts[0]}=x"), (2,))
            elif "int" in kind or "float" in kind:
                for value in values:
                    yield Case((*start, option.opts[0], value), (1, 2))
            else:
                for value in (
                    "",
                    "missing",
                    "file",
                    "loop.csv",
                    "folder.csv",
                    "/dev/null",
                    "x" * 5_000,
                    "\udcff",
                    "\n",
                ):
                    yield Case((*start, option.opts[0], value), (1, 2))


_MISSING: dict[tuple[str, ...], tuple[str, ...]] = {
    ("simulate",): ("file/x.csv",),
    ("train",): ("missing.csv",),
    ("evaluate",): ("missing.ckpt", "missing.csv"),
    ("study",): ("--out", "file/x"),
    ("export",): ("missing.ckpt",),
    ("serve",): ("--repository", "missing"),
    ("predict",): ("missing.csv",),
    ("doctor",): ("--repository", "missing"),
    ("repository", "list"): ("--repository", "missing"),
    ("repository", "show"): ("--repository", "missing", "1"),
    ("repository", "promote"): ("--repository", "missing", "1"),
    ("repository", "rollback"): ("--repository", "missing"),
    ("repository", "prune"): ("--repository", "missing"),
    ("repository", "diff"): ("--repository", "missing", "1", "2"),
    ("engine", "prepare"): ("--repository", "missing", "--work", "work"),
    ("engine", "install"): ("--work", "missing"),
    ("runs", "list"): ("--nothing",),
    ("perf", "run"): ("--repository", "missing"),
    ("perf", "tune"): ("--repository", "missing"),
    ("perf", "apply"): ("missing.toml",),
    ("perf", "overload"): ("--repository", "missing"),
    ("perf", "compare"): ("missing.json", "missing.json"),
    ("runs", "compare"): ("missing", "none"),
}


def _commands(command: Any, name: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(command, TyperGroup):
        for part, below in command.commands.items():
            yield from _commands(below, (*name, part))
    else:
        yield name, command


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and modification time of every file in a folder, and (0, 0) for every folder.

    The caches of PyTorch and ONNX are excluded, and so is the journal of a prediction whose server is unreachable.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith(("torchinductor_", ".ses", "journal", ".predict.journal")):
            status = path.lstat()
            found[str(path.relative_to(folder))] = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
    return found


def run_process(case: Case, folder: Path) -> Ending | str:
    """Run a case as a separate process; return a text instead if it exceeds the time limit."""
    command = [str(Path(sys.executable).with_name("reentry")), *case.arguments]
    environment = os.environ | {"TMPDIR": str(folder / "temporary"), "NO_COLOR": "1", "TERMINAL_WIDTH": "1000"}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder.parent}/mlflow.db"
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"still running after {DEADLINE:g} s"
    return Ending(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def main() -> int:
    """Run all cases as separate processes, one per core at a time, and print those with an unexpected result."""
    cases = list(dict.fromkeys([*written_cases(), *generated_cases()]))
    only = sys.argv[1:]
    cases = [case for case in cases if all(word in case.arguments for word in only)]
    print(f"{len(cases)} cases", flush=True)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="reentry-matrix-") as temporary:
        folder = Path(temporary) / "world"
        folder.mkdir()
        make_world(folder)
        before = listing(folder)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for number, (case, ending) in enumerate(
                zip(cases, pool.map(lambda case: run_process(case, folder), cases), strict=True), 1
            ):
                faults = [ending] if isinstance(ending, str) else ending.faults(case)
                if faults:
                    wrong += 1
                    print(f"reentry {case}: {'; '.join(faults)}", flush=True)
                    if isinstance(ending, Ending):
                        print(ending.stderr[-1_500:], flush=True)
                if number % 100 == 0:
                    print(f"{number} done, {wrong} wrong", flush=True)
        after = listing(folder)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if changed:
            print(f"written: {', '.join(changed[:20])}")
            wrong += 1
    print(f"{len(cases)} cases, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
