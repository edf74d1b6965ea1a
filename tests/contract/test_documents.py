"""The documents against the repository: the index is complete, links lead somewhere, and commands and options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    if name
)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def links(page: Path) -> list[str]:
    """Targets of the relative links and pictures of a page."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [link for link in found if not re.match(r"[a-z]+:|\.\./\.\./actions", link)]


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words after `reentry` of each command in the code blocks and examples of a page."""
    blocks = re.findall(r"^```(?:sh|bash|text)$(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"^Example: `([^`]+)`", text, re.MULTILINE)
    blocks += re.findall(r"^    (?:\$ )?(reentry .*)$", text, re.MULTILINE)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        if not re.search(r"(?<![\w./-])reentry ", line):
            continue
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                command.append(word)
                continue
            while command and re.match(r"\w+=", command[0]):
                del command[0]
            if "exec" in command and "--" in command:  # kubectl
                del command[: command.index("--") + 1]
            if command[:1] == ["reentry"]:
                yield command[1:]
            command = []


def parse(words: list[str]) -> None:
    """Parse a command without executing it. An unknown command or option, or a missing argument, is an error."""
    command, name = typer.main.get_command(app), "reentry"
    while words and words[0] in getattr(command, "commands", {}):
        command, name, words = command.commands[words[0]], f"{name} {words[0]}", words[1:]
    assert not (words and hasattr(command, "commands")), f"{name} has no command {words[0]}"
    command.make_context(name, words)


def test_the_index_names_every_document_once() -> None:
    index = ROOT / "docs/index.md"
    listed = [link for link in links(index) if not link.endswith("README.md")]
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md") if page != index)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_and_module_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"(?<![\w-])make ([a-z]+(?:-[a-z]+)*)(?= [A-Z]+=|`|$)", text, re.MULTILINE):
        assert target in TARGETS, f"make {target}"
    for module in re.findall(r"python -m ((?:cli|client|export|perf|reentry|registry|training|tests)\.[\w.]*\w)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_code_block_of_a_page_exists_with_its_options(page: Path) -> None:
    for words in commands(page.read_text()):
        parse(words)


def test_commands_are_found_in_every_notation() -> None:
    page = """
```sh
reentry serve & reentry gateway serve   # in the background
key=$(KIND=a reentry gateway keys create "first key" | grep --only-matching 'rk_')
curl http://127.0.0.1:8000/v2/models/reentry/infer --data '{
```
```text
kubectl -n reentry exec deployment/reentry-gateway -- reentry gateway accounts \\
    list
kubectl -n reentry rollout status
```
    reentry study --quick
Example: `reentry gateway openapi > openapi.json`
"""
    assert [" ".join(words) for words in commands(page)] == [
        *("serve", "gateway serve", "gateway keys create first key", "gateway accounts list"),
        *("gateway openapi", "study --quick"),
    ]
    pages = {page.name for page in PAGES if [*commands(page.read_text())]}
    assert {"README.md", "cli.md", "gateway.md", "gateway-accounts.md", "gateway-traces.md", "jobs.md"} <= pages


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("gateway start", "reentry gateway has no command start"),
        ("gateway serve --prot 8080", "--prot"),
        ("predict", "Missing parameter: source"),
        ("gateway work --workers two", "valid integer"),
    ],
)
def test_a_command_that_does_not_exist_is_detected(command: str, fault: str) -> None:
    with pytest.raises(Exception, match=fault):
        parse(command.split())
