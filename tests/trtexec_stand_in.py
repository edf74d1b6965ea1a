#!/usr/bin/env python3
"""A stand-in for trtexec on machines without a GPU. Its "engine" is the ONNX file, run by ONNX Runtime on the CPU.

Options and output follow TensorRT's documentation and published sources; they were not recorded on a GPU. The
environment variable REENTRY_STAND_IN configures it with a JSON object of these keys:

    version            TensorRT version to report
    without            options that it does not know
    fail               error that every run reports
    spoil              number added to every probability
    stop_after_build   fail to run engines: ONNX Runtime's CPU provider crashes on an LSTM of half precision
    log                file to which each run appends its arguments as one line
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
    settings = json.loads(os.environ.get("REENTRY_STAND_IN", "{}"))
    version = settings.get("version", "10.16.2")
    major, minor, patch = map(int, version.split("."))
    known = [option for option in OPTIONS if option not in settings.get("without", [])]
    banner = f"TensorRT.trtexec [TensorRT v{major * 10000 + minor * 100 + patch}] # {' '.join(sys.argv)}"
    print(f"&&&& RUNNING {banner}")
    arguments = {name: value for name, _, value in (word.removeprefix("--").partition("=") for word in sys.argv[1:])}
    if "log" in settings:
        with Path(settings["log"]).open("a") as log:
            print(*sys.argv[1:], file=log)

    def log_line(level: str, text: str) -> None:
        print(f"[11/21/2026-12:00:00] [{level}] {text}", file=sys.stderr if level == "E" else sys.stdout, flush=True)

    def failed(text: str) -> int:
        log_line("E", text)
        print(f"&&&& FAILED {banner}")
        return 1

    if "help" in arguments:
        print("\n".join(f"  --{option}" for option in known))
        return 0
    for name, value in arguments.items():
        if name not in known:
            return failed(f"Unknown option: --{name} {value}")
    log_line("I", "Selected Device: Stand-in GPU")
    log_line("I", "Compute Capability: 9.0")
    log_line("I", f"TensorRT version: {version}")
    if "fail" in settings:
        log_line("E", settings["fail"])
        return failed("Engine set up failed")
    if "onnx" in arguments:
        Path(arguments["saveEngine"]).write_bytes(Path(arguments["onnx"]).read_bytes())
        log_line("I", "Engine built in 1.25 sec.")
    elif "stop_after_build" in settings:
        return failed("the stand-in runs no engine")
    else:
        run(arguments, settings.get("spoil", 0.0))
        log_line("I", "Throughput: 812.5 qps")
    print(f"&&&& PASSED {banner}")
    return 0


def run(arguments: dict[str, str], spoil: float) -> None:
    session = onnxruntime.InferenceSession(arguments["loadEngine"], providers=["CPUExecutionProvider"])
    shapes = dict(shape.split(":") for shape in arguments["shapes"].split(","))
    inputs = {}
    for argument in arguments["loadInputs"].split(","):
        name, _, file = argument.partition(":")
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
