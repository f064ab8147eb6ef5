"""Where a run took place: commit, versions, processor, memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch

from compactrec.benchmarks.memory import give_freed_memory_back

__all__ = [
    "commit_of",
    "describe_environment",
    "library_versions",
    "peak_rss_bytes",
    "reset_peak_rss",
]

_STATUS = Path("/proc/self/status")


def describe_environment(num_threads: int) -> dict[str, str | int | None]:
    """Commit (None outside a git checkout), versions, CPU and its vector unit, threads."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        **library_versions(),
        "cpu": _cpu(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "num_threads": num_threads,
    }


def library_versions() -> dict[str, str | None]:
    """Versions of what computes: with other ones a run does not go on to the same weights."""
    return {
        "compactrec": _version("compactrec"),
        "torch": _version("torch"),
        "torchrec": _version("torchrec"),
        "numba": _version("numba"),
        "fbgemm": _version("fbgemm-gpu-cpu") or _version("fbgemm-gpu"),
    }


def reset_peak_rss() -> None:
    """Let :func:`peak_rss_bytes` start anew, so that a run is not charged for an earlier one."""
    give_freed_memory_back()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss_bytes() -> int:
    """The most memory this process had since :func:`reset_peak_rss` (Linux), or since its start."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _version(name: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def _commit() -> str | None:
    """The commit of the source tree."""
    source = Path(__file__).resolve().parent
    if _git(source, "ls-files", Path(__file__).name) == "":
        return None  # a checkout of something else around an installed copy
    return commit_of(source)


def commit_of(folder: Path) -> str | None:
    """The commit of a checkout, with ``+changes`` where tracked files were edited; or None."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    return commit + ("+changes" if _git(folder, "status", "--porcelain", "-uno") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    return None


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
