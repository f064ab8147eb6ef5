"""A method is its own files and two lines: without them the rest passes its tests."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compactrec.embeddings import get_method, method_names

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "data", "docs", "embeddings", "models", "requirements", "src", "tests")
FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml")

# Full tables are what every other method keeps for small features: part of the base. So is what
# searches train and derive, and the method that one of them derives.
REMOVABLE = [name for name in method_names() if name not in ("full", "mixed")]
# The suite runs without this one: defaults and examples name it. With COMPACTREC_REMOVE=all it runs
# without each in turn, minutes for each. The others are looked through without running.
REMOVED_AND_RUN = os.environ.get("COMPACTREC_REMOVE", "hash" if "hash" in REMOVABLE else "unified")
# What could speak of a method by its name: commands, documents, comparisons, swaps. All else goes
# case by case, and every case that stays runs outside as well: that it can be collected will do.
WHERE_NAMED = [
    f"tests/{name}"
    for name in (
        *("test_cli.py", "test_docs.py", "swap/test_swap.py", "swap/test_refusals.py"),
        *("swap/test_optimizers.py", "swap/test_wrapped.py", "contract/test_plan.py"),
        *(f"benchmarks/test_{n}.py" for n in ("compare", "config", "report", "search", "tuning")),
    )
]


def file_stem(method: str) -> str:
    """Name of the method's module: ``hashed`` for ``hash``."""
    return Path(inspect.getfile(get_method(method).config)).stem


def own_files(root: Path, method: str) -> list[Path]:
    """The files that belong to a method alone. Its reference may stay: it imports nothing."""
    stem = file_stem(method)
    patterns = (
        f"embeddings/{stem}.py",
        f"embeddings/{stem}_*.py",
        f"tests/methods/{stem}.py",
        f"tests/embeddings/test_{stem}.py",
        f"tests/embeddings/test_{stem}_*.py",
        f"docs/methods/{method}.md",
    )
    return [path for pattern in patterns for path in sorted(root.glob(pattern))]


def without_import(source: str, stem: str) -> str:
    """``embeddings/__init__.py`` without what it imports from the method's modules."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if not isinstance(node, ast.ImportFrom):
            continue
        if re.fullmatch(rf"compactrec\.embeddings\.{stem}(_\w+)?", node.module or ""):
            del lines[node.lineno - 1 : node.end_lineno]
            names = {f'"{alias.name}",' for alias in node.names}
            lines = [line for line in lines if line.strip() not in names]
    return "\n".join(lines) + "\n"


def edit(path: Path, pattern: str, times: int) -> None:
    """Remove the lines that match; exactly ``times`` of them."""
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not re.search(pattern, line)]
    assert len(lines) - len(kept) == times, f"{path.name}: {pattern!r} is not there {times} times"
    path.write_text("".join(kept))


def remove(root: Path, method: str) -> None:
    """Take a method out of a copy of the project."""
    stem = file_stem(method)
    files = own_files(root, method)
    assert root / "embeddings" / f"{stem}.py" in files
    for path in files:
        path.unlink()
    init = root / "embeddings" / "__init__.py"
    shorter = without_import(init.read_text(), stem)
    assert shorter != init.read_text()
    init.write_text(shorter)
    edit(root / "tests" / "cases.py", rf'^\s*cases_of\("{stem}"\),$', times=1)
    edit(root / "README.md", rf"^\| \[`{method}`\]\(docs/methods/", times=1)
    stand_in = "hash" if method != "hash" else "compositional"
    for document in (root / "README.md", *root.glob("docs/*.md")):
        document.write_text(document.read_text().replace(f'"{method}"', f'"{stand_in}"'))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project without what is built, in a folder of its own."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    for file in FILES:
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


@pytest.mark.parametrize("method", REMOVABLE)
def test_nothing_else_imports_a_method(method: str) -> None:
    stem = file_stem(method)
    own = {
        *own_files(ROOT, method),
        ROOT / "embeddings" / "__init__.py",
        ROOT / "tests" / "cases.py",
    }
    pattern = re.compile(
        rf"(compactrec\.embeddings|tests\.(methods|embeddings))\.(test_)?{stem}\b"
        rf"|\b{get_method(method).config.__name__}\b"
    )
    named = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path not in own
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
    assert named == [], f"besides its own files, {method} may be named in two lines only"


def test_what_is_run_can_be_removed() -> None:
    assert REMOVED_AND_RUN in {*REMOVABLE, "all"}, "COMPACTREC_REMOVE: a method's name, or all"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", [name for name in REMOVABLE if REMOVED_AND_RUN in (name, "all")])
def test_the_suite_passes_without_a_method(copy: Path, method: str) -> None:
    remove(copy, method)
    env = {**os.environ, "PYTHONPATH": str(copy / "src")}
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not dist"]
    command = [sys.executable, "-m", "pytest", *options, "-x", *WHERE_NAMED]
    run = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]
    command = [sys.executable, "-m", "pytest", *options, "--collect-only"]
    collected = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    assert collected.returncode == 0, collected.stdout[-4000:] + collected.stderr[-1000:]
    listed = "import compactrec.embeddings as e; print(*e.method_names())"
    names = subprocess.run(
        [sys.executable, "-c", listed],
        cwd=copy,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert names.stdout.split() == [name for name in method_names() if name != method]
