#!/usr/bin/env python3
"""Stands in for trtexec where there is no GPU: an "engine" is the ONNX file itself, run by ONNX Runtime on the CPU.

What it takes and prints follows TensorRT's documentation and published sources; nothing of it was recorded on a GPU.
REENTRY_STAND_IN, as JSON, changes it: `version`, `without` (options it does not know), `fail` (its error), `spoil`
(added to every probability), `stop_after_build` (no engine runs: ONNX Runtime's CPU provider ends the process on an
LSTM of half precision), `log` (a file that gets a line of arguments for each run).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime

OPTIONS = [
    "onnx",
    "saveEngine",
    "loadEngine",
    "minShapes",
    "optShapes",
    "maxShapes",
    "shapes",
    "loadInputs",
    "exportOutput",
    "memPoolSize",
    "timingCacheFile",
    "fp16",
    "int8",
    "noTF32",
    "skipInference",
    "warmUp",
    "duration",
    "iterations",
    "help",
]


def main() -> int:
    wishes = json.loads(os.environ.get("REENTRY_STAND_IN", "{}"))
    version = wishes.get("version", "10.16.2")
    major, minor, patch = map(int, version.split("."))
    known = [option for option in OPTIONS if option not in wishes.get("without", [])]
    banner = f"TensorRT.trtexec [TensorRT v{major * 10000 + minor * 100 + patch}] # {' '.join(sys.argv)}"
    print(f"&&&& RUNNING {banner}")
    arguments = {name: value for name, _, value in (word.removeprefix("--").partition("=") for word in sys.argv[1:])}
    if "log" in wishes:
        with Path(wishes["log"]).open("a") as log:
            print(*sys.argv[1:], file=log)

    def say(level: str, text: str) -> None:
        print(f"[11/21/2026-12:00:00] [{level}] {text}", file=sys.stderr if level == "E" else sys.stdout, flush=True)

    def failed(text: str) -> int:
        say("E", text)
        print(f"&&&& FAILED {banner}")
        return 1

    if "help" in arguments:
        print("\n".join(f"  --{option}" for option in known))
        return 0
    for name, value in arguments.items():
        if name not in known:
            return failed(f"Unknown option: --{name} {value}")
    say("I", "Selected Device: Stand-in GPU")
    say("I", "Compute Capability: 9.0")
    say("I", f"TensorRT version: {version}")
    if "fail" in wishes:
        say("E", wishes["fail"])
        return failed("Engine set up failed")
    if "onnx" in arguments:
        Path(arguments["saveEngine"]).write_bytes(Path(arguments["onnx"]).read_bytes())
        say("I", "Engine built in 1.25 sec.")
    elif "stop_after_build" in wishes:
        return failed("no engine runs")
    else:
        run(arguments, wishes.get("spoil", 0.0))
        say("I", "Throughput: 812.5 qps")
    print(f"&&&& PASSED {banner}")
    return 0


def run(arguments: dict[str, str], spoil: float) -> None:
    session = onnxruntime.InferenceSession(arguments["loadEngine"], providers=["CPUExecutionProvider"])
    shapes = dict(part.split(":") for part in arguments["shapes"].split(","))
    inputs = {}
    for part in arguments["loadInputs"].split(","):
        name, _, file = part.partition(":")
        inputs[name] = np.fromfile(file, np.float32).reshape([int(size) for size in shapes[name].split("x")])
    names = [node.name for node in session.get_outputs()]
    with Path(arguments["exportOutput"]).open("w") as out:
        out.write("[\n")
        separator = "  "
        for name, values in zip(names, session.run(names, inputs), strict=True):
            if name == "reentry_probability":
                values = values + np.float32(spoil)
            text = ", ".join("nan" if value != value else f"{value:.6g}" for value in values.ravel().tolist())
            out.write(f'{separator}{{ "name" : "{name}"\n  , "dimensions" : "{"x".join(map(str, values.shape))}"\n')
            out.write(f'  , "values" : [ {text} ]\n  }}\n')
            separator = ", "
        out.write("]\n")


if __name__ == "__main__":
    sys.exit(main())
