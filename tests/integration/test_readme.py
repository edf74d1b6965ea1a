"""Every command the README shows is run, as it stands, in a copy of the checkout, on a third of its flights."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files git knows, beside the environment that is already set up."""
    copy = tmp_path_factory.mktemp("readme") / "reentry"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    return copy


def test_every_code_block_of_the_readme_has_a_tested_language() -> None:
    languages = re.findall(r"^```(\w*)$", README, flags=re.MULTILINE)
    assert BLOCKS
    assert {language for language in languages if language} <= {
        "sh",
        "text",
        "python",
    }  # those in Python are run by `test_requests`


def obstacle() -> str | None:
    """What keeps the README's commands from running here."""
    if not (ROOT / ".venv" / ".ready").exists():
        return "the environment is not the one `make setup` makes"
    taken = [port for port in (8000, 8001, 8002, 8080, 8081) if not port_is_free(port)]
    return f"the README's server wants ports 8000 to 8002, 8080 and 8081, {taken} are taken" if taken else None


def test_the_commands_of_the_readme_run_in_order(checkout: Path) -> None:
    reason = obstacle()
    if reason is not None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(reason)
    # Job control, as in the reader's shell: `kill %1` is one of the commands.
    # If one fails, the servers in the background must not keep their ports.
    script = "\n".join(["set -e -o pipefail -m", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT", *BLOCKS])
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    } | {"TRACKS": "30"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=checkout, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "scored in" in done.stdout
    for made in ("artifacts/evaluation/evaluation.json", "artifacts/predictions/predictions.csv"):
        assert (checkout / made).stat().st_size > 0
