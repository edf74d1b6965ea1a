"""Runs of Terraform in a copy of `infra/`, with the AWS provider from a mirror on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.contract.makefile import ROOT

INFRA = ROOT / "infra"
PROVIDER = Path("registry.terraform.io/hashicorp/aws")
MIRROR_VARIABLE = "TF_PLUGIN_MIRROR"
"""Environment variable that may name the folder with the provider."""


def mirrors() -> list[Path]:
    """Return the folders where a mirror may be: the named one, Terraform's own places, or folders of add-ons."""
    named = os.environ.get(MIRROR_VARIABLE)
    places = [
        Path.home() / ".terraform.d/plugins",
        *map(Path, ("/usr/local/share/terraform/plugins", "/usr/share/terraform/plugins")),
    ]
    return [Path(named)] if named else [*places, *sorted(Path("/opt").glob("*plugins*"))]


@cache
def terraform() -> tuple[str, Path]:
    """Return Terraform and the mirror of the provider, or skip the test with the reason."""
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("terraform is not installed")
    for mirror in mirrors():
        if (mirror / PROVIDER).is_dir():
            return program, mirror
    pytest.skip(f"no mirror with {PROVIDER}; set {MIRROR_VARIABLE} to its folder")


class Workspace:
    """A copy of `infra/` with an initialised provider, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._program, mirror = terraform()
        self.folder = folder / "infra"
        self.log = folder / "log"
        shutil.copytree(INFRA, self.folder, ignore=shutil.ignore_patterns(".terraform", ".terraform-*", "*.tfstate*"))
        config = folder / "terraform.rc"
        config.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n')
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "AWS_"))}
        self.environment = {
            **outer,
            "TF_CLI_CONFIG_FILE": str(config),
            "TF_DATA_DIR": str(folder / "data"),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
        }

    def command(self, *words: str) -> list[str]:
        """Return the command line of Terraform with these arguments."""
        return [self._program, f"-chdir={self.folder}", *words]

    def run(self, *words: str, expect: int = 0) -> str:
        """Run Terraform, require its exit status, and return what it prints."""
        done = subprocess.run(
            self.command(*words),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == expect, done.stdout
        return done.stdout

    def resources(self) -> dict[str, dict[str, Any]]:
        """Return the values of every resource of the state, by address."""
        shown = subprocess.run(
            self.command("show", "-json"), env=self.environment, capture_output=True, text=True, timeout=120, check=True
        )
        found = {}
        modules = [json.loads(shown.stdout)["values"]["root_module"]]
        while modules:
            module = modules.pop()
            modules += module.get("child_modules", [])
            found |= {resource["address"]: resource["values"] for resource in module.get("resources", [])}
        return found
