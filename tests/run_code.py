"""Programs in processes that have the libraries already: code of the documents, and commands."""

import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from tests.ports import free_port

__all__ = ["command", "run_code", "run_ranks"]

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("torch", "torchrec", "pandas", "compactrec.cli", "compactrec.benchmarks.train"),
        *("compactrec.embeddings.numba_tables", __name__),
    ]
)

Ended = tuple[int | None, str, str]
"""Exit code, and what was written to both streams."""


def command(words: Sequence[str]) -> str:
    """Code that does what ``python -m compactrec`` with these words does."""
    return f"import sys\nfrom compactrec.cli import main\nsys.exit(main({list(words)!r}))"


def run_code(code: str, folder: Path, seconds: float) -> Ended:
    """Run it in ``folder``, as a program."""
    return _run(code, folder, seconds, [{}])[0]


def run_ranks(code: str, folder: Path, seconds: float, size: int = 2) -> list[Ended]:
    """Run it in so many processes with the environment that torchrun gives to them."""
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
    }  # fmt: skip
    ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return _run(code, folder, seconds, ranks)


def _run(
    code: str, folder: Path, seconds: float, environments: Sequence[dict[str, str]]
) -> list[Ended]:
    streams = [(folder / f"stdout{i}", folder / f"stderr{i}") for i in range(len(environments))]
    processes = [
        CONTEXT.Process(target=_main, args=(code, str(folder), environment, *map(str, names)))
        for environment, names in zip(environments, streams, strict=True)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [
        (process.exitcode, out.read_text(), errors.read_text())
        for process, (out, errors) in zip(processes, streams, strict=True)
    ]


def _main(code: str, folder: str, environment: dict[str, str], *streams: str) -> None:
    for number, name in enumerate(streams, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    os.environ |= environment
    warnings.simplefilter("ignore")
    exec(compile(code, "document", "exec"), {"__name__": "__main__"})  # our own documents
    sys.stdout.flush()
