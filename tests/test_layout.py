"""The symlinked layout holds: one import name, one copy of every module, whole wheels."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "compactrec"
LINKED = ("benchmarks", "data", "embeddings", "models")

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import warnings; warnings.simplefilter("ignore")
import compactrec

def fail(name):
    raise ImportError(name)

names = [m.name for m in pkgutil.walk_packages(compactrec.__path__, "compactrec.", onerror=fail)]
modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
undefined = [
    f"{module.__name__}.{name}"
    for module in modules
    for name in getattr(module, "__all__", ["__all__"])
    if not hasattr(module, name)
]
print(json.dumps({"names": names, "undefined": undefined, "loaded": sorted(sys.modules)}))
"""


def python_files() -> list[str]:
    """Paths inside the package, links followed, as a wheel names them."""
    files = [
        Path(folder) / name
        for folder, _, names in os.walk(PACKAGE, followlinks=True)
        for name in names
        if name.endswith(".py")
    ]
    return sorted(path.relative_to(PACKAGE.parent).as_posix() for path in files)


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """What importing every module brings, in a new process that starts in the repository root."""
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, list[str]] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative_and_resolve(name: str) -> None:
    link = PACKAGE / name
    assert link.is_symlink(), f"{link} is no symlink: check out with git config core.symlinks true"
    assert os.readlink(link) == f"../../{name}"
    assert (link / "__init__.py").is_file()


def test_git_tracks_links_as_links() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "--stage", "--", *(f"src/compactrec/{name}" for name in LINKED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    modes = {line.split("\t")[1]: line.split()[0] for line in listing.splitlines()}
    assert modes == {f"src/compactrec/{name}": "120000" for name in LINKED}


def test_every_module_imports_under_one_name(imported: dict[str, list[str]]) -> None:
    modules = {path.removesuffix(".py").replace("/", ".") for path in python_files()}
    modules = {name.removesuffix(".__init__") for name in modules} - {"compactrec"}
    assert set(imported["names"]) == modules, "a folder without __init__.py is not found"
    bare = {name for name in imported["loaded"] if name.split(".")[0] in LINKED}
    assert not bare, f"imported without the prefix compactrec: {sorted(bare)}"


def test_every_module_says_what_is_public(imported: dict[str, list[str]]) -> None:
    assert imported["undefined"] == [], "`__all__` is missing, or names what is not there"


def test_no_module_imports_relatively() -> None:
    # `from . import x` also works under the bare name, and then gives a second copy.
    relative = [
        f"{path}:{node.lineno}"
        for path in python_files()
        for node in ast.walk(ast.parse((PACKAGE.parent / path).read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_wheel_holds_every_module_and_nothing_else(tmp_path: Path) -> None:
    tree = tmp_path / "tree"  # a copy: a build folder left in the repository would be packed too
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "src", *LINKED):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tree / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    options = ["--no-index", "--quiet", "--wheel-dir", str(tmp_path), str(tree)]
    run = subprocess.run([*build, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    code = sorted(name for name in names if name.endswith(".py"))
    assert code == python_files()
    rest = {name for name in names if not name.endswith(".py") and ".dist-info/" not in name}
    shipped = [
        *(ROOT / "benchmarks").rglob("*.j2"), *(ROOT / "benchmarks").rglob("protocols/*.toml"),
        *(ROOT / "benchmarks").rglob("spaces/*.toml"),
        *(ROOT / "data").rglob("schemas/*.toml"),
    ]  # fmt: skip
    assert len(shipped) >= 2
    packed = {f"compactrec/{path.relative_to(ROOT).as_posix()}" for path in shipped}
    assert rest == {"compactrec/py.typed", *packed}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        # The hash of texts is one function, so that served ids equal prepared ones.
        ("embeddings", {"embeddings", "file_hash", "locks", "words", "data.hashing"}),
        ("models", {"embeddings", "models"}),
        ("data", {"data", "embeddings", "file_hash", "locks", "words"}),
    ],
)
def test_folders_import_only_what_they_may(folder: str, allowed: set[str]) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / folder).rglob("*.py")
        for name in imported_names(path)
        if not any(f"{name}.".startswith(f"compactrec.{start}.") for start in allowed)
    }
    assert found == set()


def imported_names(path: Path) -> set[str]:
    """Modules of the package that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "compactrec"}
