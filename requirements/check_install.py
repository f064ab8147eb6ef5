"""Keep the environment of ``make setup`` whole: ``heal`` before pip runs, ``verify`` after.

``heal``    forgets every package whose files are not all there (an install that was cut off), so
            that pip installs it again instead of calling it satisfied.
``verify``  fails, in words, unless the pinned versions are installed, everything they need is
            there, FBGEMM is the CPU build alone and works, and compactrec is this folder's.
"""

import re
import shutil
import sys
import warnings
from importlib import metadata
from pathlib import Path

__all__ = ["broken", "main", "missing_requirements", "problems", "read_pins"]

HERE = Path(__file__).resolve().parent
PIN_FILES = ("torch.txt", "cpu.txt", "dev.txt")
CUDA_FBGEMM = "fbgemm-gpu"
NOT_NEEDED = {
    ("torchrec", CUDA_FBGEMM): "fbgemm-gpu-cpu stands in for it",
    ("fuxictr", "h5py"): "its data files; only its layers and base model are used",
    ("fuxictr", "ray"): "its preprocessing; hundreds of megabytes",
}
"""What a pinned package asks for, and why it does without here."""


def normal(name: str) -> str:
    """A package name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path) -> dict[str, str]:
    """``name==version`` lines of a requirements file as ``{normal name: version}``."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line]
    loose = [pair[0] for pair in pairs if len(pair) != 2]
    if loose:
        raise ValueError(f"{path.name}: {loose[0]!r} has no exact version; write name==version")
    return {normal(name): version for name, version in pairs}


def broken() -> list[Path]:
    """Metadata folders of packages in this environment that lost files, or were never finished."""
    found = []
    for folder in sorted(Path(p) for p in sys.path if Path(p).name == "site-packages"):
        found += sorted(folder.glob("~*"))
        for info in sorted(folder.glob("*.dist-info")):
            files = metadata.Distribution.at(info).files
            paths = [f.locate() for f in files or [] if f.suffix != ".pyc"]
            if not paths or not all(Path(p).exists() for p in paths):
                found.append(info)
    return found


def heal() -> int:
    """Remove what ``broken`` finds; the next pip call installs those packages again."""
    for path in broken():
        print(f"unfinished install: {path.name}; it will be installed again")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return 0


def missing_requirements(pins: dict[str, str]) -> list[str]:
    """Requirements of the pinned packages that are not installed, or in a version they refuse."""
    from packaging.requirements import Requirement

    installed = {normal(d.name): d.version for d in metadata.distributions()}
    found = []
    for name in sorted(set(pins) & set(installed)):
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            needed = normal(requirement.name)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            if (name, needed) in NOT_NEEDED:
                continue
            if needed not in installed:
                found.append(f"{name} needs {text}, which is not installed")
            elif not requirement.specifier.contains(installed[needed], prereleases=True):
                found.append(f"{name} needs {text}, but {installed[needed]} is installed")
    return found


def import_problems() -> list[str]:
    """Import what is easiest to get wrong, and run one FBGEMM kernel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import fbgemm_gpu  # noqa: F401 - registers torch.ops.fbgemm
            import torch
            import torchrec  # noqa: F401 - the import is the test
        sums = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2]))
        if sums.tolist() != [0, 1, 3]:
            return [f"an FBGEMM kernel gave {sums.tolist()} for the sums of [1, 2]"]
        import compactrec
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return [f"an import failed: {type(error).__name__}: {error}"]
    root = HERE.parent
    if not Path(compactrec.__file__).is_relative_to(root):
        return [f"compactrec is imported from {compactrec.__file__}, not from {root}"]
    return []


def problems() -> list[str]:
    """Everything that is wrong with this environment, in words."""
    pins: dict[str, str] = {}
    for name in PIN_FILES:
        pins |= read_pins(HERE / name)
    installed = {normal(d.name): d.version for d in metadata.distributions()}
    found = [
        f"{name} should be {version}, but is {installed.get(name, 'not installed')}"
        for name, version in pins.items()
        if installed.get(name, "").split("+")[0] != version
    ]
    if CUDA_FBGEMM in installed:
        found.append(
            "fbgemm-gpu, the CUDA build, is installed and overwrites the files of fbgemm-gpu-cpu"
        )
    if found:
        return found
    return missing_requirements(pins) + import_problems()


def verify() -> int:
    """Print what is wrong and what to do; 0 if nothing is."""
    found = problems()
    for line in found:
        print(f"setup: {line}", file=sys.stderr)
    if found:
        print("setup: start again with: make distclean setup", file=sys.stderr)
    return 1 if found else 0


def main() -> int:
    """Run the command named on the command line."""
    commands = {"heal": heal, "verify": verify}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        print(f"usage: check_install.py {'|'.join(commands)}", file=sys.stderr)
        return 2
    return commands[sys.argv[1]]()


if __name__ == "__main__":
    sys.exit(main())
