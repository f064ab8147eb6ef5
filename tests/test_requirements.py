"""What is imported is declared, what is declared is pinned, and the pins leave no gap."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "data", "embeddings", "models", "src")
DISTRIBUTIONS = {"fbgemm_gpu": "fbgemm-gpu", "sklearn": "scikit-learn"}


def load_check_install() -> ModuleType:
    path = ROOT / "requirements" / "check_install.py"
    spec = importlib.util.spec_from_file_location("check_install", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_install = load_check_install()


def declared() -> dict[str, list[Requirement]]:
    """Requirements of the base (under "") and of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in groups.items()}


def imported() -> set[str]:
    """Distributions that the package imports, but for what `bench_*.py` compares with."""
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if path.name.startswith("bench_"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    found.add((node.module or "").split(".")[0])
                elif isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
    found -= {*sys.stdlib_module_names, "compactrec", ""}
    return {DISTRIBUTIONS.get(name, name) for name in found}


def pins() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in check_install.PIN_FILES:
        found |= check_install.read_pins(ROOT / "requirements" / file)
    return found


def test_imports_and_declared_dependencies_are_the_same_packages() -> None:
    names = {r.name for lines in declared().values() for r in lines} - {"compactrec"}
    assert imported() - names == set(), "imported, but not in pyproject.toml"
    assert names - imported() == set(), "in pyproject.toml, but imported nowhere"


def test_pins_are_within_the_declared_ranges() -> None:
    pinned = pins()
    pinned["fbgemm-gpu"] = pinned["fbgemm-gpu-cpu"]
    for requirement in (r for lines in declared().values() for r in lines):
        if requirement.name != "compactrec":
            assert requirement.specifier.contains(pinned[requirement.name]), str(requirement)


def test_the_cpu_list_never_brings_the_cuda_build() -> None:
    assert "fbgemm-gpu" not in pins()
    assert "torch" not in check_install.read_pins(ROOT / "requirements" / "cpu.txt")


def test_the_pins_leave_no_gap() -> None:
    assert check_install.missing_requirements(pins()) == []


def test_a_gap_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = {"numpy": ["absent>1"], "torch": ["numpy<1"], "torchrec": ["fbgemm-gpu"]}
    monkeypatch.setattr(check_install.metadata, "requires", requires.get)
    gaps = check_install.missing_requirements(dict.fromkeys(requires, "0"))
    assert len(gaps) == 2
    assert gaps[0] == "numpy needs absent>1, which is not installed"
    assert re.fullmatch(r"torch needs numpy<1, but [\d.]+ is installed", gaps[1])


def test_a_line_without_exact_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("# a comment\na==1\n\nb>=2\n")
    with pytest.raises(ValueError, match=r"some.txt: 'b>=2' has no exact version; write name==v"):
        check_install.read_pins(tmp_path / "some.txt")


def test_unfinished_installs_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site-packages"
    for name, record in {
        "whole": "whole.py,,\nwhole.pyc,,\nwhole-1.dist-info/METADATA,,\n",
        "lost": "lost.py,,\nlost-1.dist-info/METADATA,,\n",
        "cut": None,
    }.items():
        info = site / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (site / f"{name}.py").touch()
        if record:
            (info / "RECORD").write_text(record)
    (site / "lost.py").unlink()
    (site / "~hole").mkdir()
    monkeypatch.setattr(sys, "path", [str(site)])
    assert check_install.heal() == 0
    left = sorted(path.name for path in site.iterdir())
    assert left == ["cut.py", "whole-1.dist-info", "whole.py"]
