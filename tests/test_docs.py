"""The documents hold: code runs, commands exist, tables and cards match the registry."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from compactrec.embeddings import method_names
from tests.cases import METHODS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")],
    key=lambda path: path.as_posix(),
)


def code_blocks(language: str) -> list[tuple[str, str]]:
    """Fenced blocks of all documents as (document:line, code)."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            found.append((f"{document.relative_to(ROOT)}:{line}", match[1]))
    return found


def printed(code: str) -> list[str]:
    """What a block says it prints: the comment behind each call of ``print``."""
    return re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)


PYTHON_BLOCKS = code_blocks("python")


@pytest.mark.parametrize(("where", "code"), PYTHON_BLOCKS, ids=[b[0] for b in PYTHON_BLOCKS])
def test_code_runs_and_prints_what_it_says(where: str, code: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, f"{where}\n{run.stderr}"
    assert run.stdout.splitlines() == printed(code), where


def test_the_readme_has_code() -> None:
    blocks = [code for where, code in PYTHON_BLOCKS if where.startswith("README.md")]
    assert blocks
    assert all(printed(code) for code in blocks)


def test_registry_cards_and_cases_name_the_same_methods() -> None:
    names = sorted(method_names())
    assert sorted(path.stem for path in (ROOT / "docs" / "methods").glob("*.md")) == names
    assert sorted(cases.method for cases in METHODS) == names


def test_the_readme_table_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    text = (ROOT / "README.md").read_text()
    assert text == generate.replaced(text, "methods", generate.methods_table()), "run: make docs"
    with pytest.raises(ValueError, match=r"needs <!-- nothing:begin --> and <!-- nothing:end -->"):
        generate.replaced(text, "nothing", "")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)", text)
    lost = [
        link
        for link in links
        if not link.startswith(("https://", "http://")) and not (document.parent / link).exists()
    ]
    assert lost == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_exist(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert named <= targets


def test_command_lines_of_the_readme_parse() -> None:
    from typer.main import get_command

    from compactrec.commands import app

    commands = getattr(get_command(app), "commands", {})
    lines = re.findall(
        r"^    compactrec +([^#\n]+)", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert lines
    for name, *words in (shlex.split(line) for line in lines):
        assert name in commands, f"no command {name!r}: there are {sorted(commands)}"
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, f"compactrec {name}"
