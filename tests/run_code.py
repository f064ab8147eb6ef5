"""Code of the documents in processes that have the libraries already."""

import multiprocessing
import os
import sys
import warnings
from pathlib import Path

__all__ = ["run_code"]

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "torchrec", "compactrec.embeddings.collection", "compactrec.models", __name__]
)


def run_code(code: str, folder: Path, seconds: float) -> tuple[int | None, str, str]:
    """Run it in ``folder``, as a program: its exit code, and what it wrote to both streams."""
    streams = (folder / "stdout", folder / "stderr")
    process = CONTEXT.Process(target=_main, args=(code, str(folder), *map(str, streams)))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode, streams[0].read_text(), streams[1].read_text()


def _main(code: str, folder: str, *streams: str) -> None:
    for number, name in enumerate(streams, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    warnings.simplefilter("ignore")
    exec(compile(code, "document", "exec"), {"__name__": "__main__"})  # our own documents
    sys.stdout.flush()
