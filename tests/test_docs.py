"""The documents hold: code runs, commands exist, tables and cards match the registry."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from compactrec.benchmarks.report import replaced, write_report
from compactrec.embeddings import all_method_names, get_method, method_names
from tests.benchmarks.fake_runs import fake_study
from tests.cases import METHODS
from tests.run_code import run_code

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), ROOT / "benchmarks/README.md", *ROOT.glob("docs/**/*.md")],
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
    exit_code, written, errors = run_code(code, tmp_path, seconds=120)
    assert exit_code == 0, f"{where}\n{errors}"
    assert written.splitlines() == printed(code), where


def test_the_readme_has_code() -> None:
    blocks = [code for where, code in PYTHON_BLOCKS if where.startswith("README.md")]
    assert blocks
    assert all(printed(code) for code in blocks)


def test_registry_cards_and_cases_name_the_same_methods() -> None:
    names = sorted(name for name in all_method_names() if not get_method(name).supernet)
    assert sorted(path.stem for path in (ROOT / "docs" / "methods").glob("*.md")) == names
    assert sorted(cases.method for cases in METHODS) == sorted(all_method_names())


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script that writes the derived parts."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_derived_parts_are_up_to_date(generate: ModuleType) -> None:
    parts = list(generate.derived())
    assert len(parts) == 18 + len(method_names())
    for path, section, content in parts:
        text = path.read_text()
        assert text == replaced(text, section, content, str(path)), "run: make docs"


def test_cards_hold_the_results_of_their_method(generate: ModuleType, tmp_path: Path) -> None:
    noises: dict[str, dict[int, float | str]] = {
        "hash": {4_000_000: 0.9, 1_000_000: 1.5},
        "mixed": {4_000_000: 0.36, 1_000_000: "does not fit"},
        "mixed:num_blocks=4": {4_000_000: 0.5},
    }
    fake_study(tmp_path / "clicks", noises)
    row = write_report([tmp_path / "clicks"], tmp_path / "clicks", num_resamples=20).summary.rows[1]
    text = generate.runs_of("hash", [tmp_path / "clicks"])
    data = "[fake clicks](../../benchmarks/results/clicks/report.md)"
    assert row.auc is not None
    assert f"| {data} | 1/4 | 4 MB | {row.auc.mean:.4f} ± " in text
    assert text.count(data) == 2
    assert text.count("| yes, worse |") == 2
    text = generate.runs_of("mixed", [tmp_path / "clicks"])
    assert f"| {data} | 1/4 | 4 MB | " in text
    assert f"| {data} | 1/16 | - | no result | - | - |" in text
    assert f"| {data} | 1/4, num_blocks=4 | 4 MB | " in text
    assert "| no |" in text
    assert "16 MB" in generate.runs_of("full", [tmp_path / "clicks"])
    assert "No committed comparison" in generate.runs_of("rare", [tmp_path / "clicks"])


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


@pytest.mark.parametrize(("code", "message"), [("print(1", "SyntaxError"), ("1 / 0", "Zero")])
def test_code_that_fails_is_noticed(code: str, message: str, tmp_path: Path) -> None:
    exit_code, _, errors = run_code(code, tmp_path, seconds=60)
    assert exit_code == 1
    assert message in errors
