"""The page docs/cli.md agrees with the help of the commands, and every command has an example."""

from __future__ import annotations

import re
from pathlib import Path

from cli.reference import reference

PAGE = Path(__file__).parents[3] / "docs/cli.md"


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), (
        "docs/cli.md is out of date; renew it: python -m cli.reference > docs/cli.md"
    )


def test_the_reference_is_the_same_at_any_terminal_width(monkeypatch) -> None:
    expected = reference()
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERMINAL_WIDTH", "20")
    assert reference() == expected


def test_every_command_and_group_has_a_section_with_an_example_of_itself() -> None:
    sections = re.split(r"^#{2,} ", reference(), flags=re.MULTILINE)[1:]
    assert len(sections) > 15
    for section in sections:
        command = section.splitlines()[0]
        assert re.search(f"Example: `{command}[ `]", section), command


def test_every_option_has_a_help_text() -> None:
    assert re.findall(r"^\| `[^`]+` \| *\|$", reference(), re.MULTILINE) == []
