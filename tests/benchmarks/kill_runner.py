"""Trains again and again, killed by SIGKILL at given places, until a last run may end.

Started by `test_train.py` in a process of its own; every run is a fork of it, so that everything is
imported once. The argument is JSON: ``[[config, [[place, call], ...]], ...]``; a run dies at the
``call``-th call of a place (0 is the first).
"""

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from compactrec.benchmarks import train
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.history import History
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.result import Result
from compactrec.embeddings import checkpoint_io
from compactrec.embeddings.checkpointing import CheckpointFolder


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_in(owner: Any, name: str, call: int, before: Callable[..., None] | None = None) -> None:
    """Die in the ``call``-th call of ``owner.name``: after ``before``, or once it has returned."""
    real = getattr(owner, name)
    calls = [0]

    def deadly(*arguments: Any, **options: Any) -> Any:
        number, calls[0] = calls[0], calls[0] + 1
        if number == call and before is not None:
            before(*arguments)
            _die()
        result = real(*arguments, **options)
        if number == call:
            _die()
        return result

    setattr(owner, name, deadly)


def _half(tensors: dict[str, torch.Tensor], path: str) -> None:
    checkpoint_save(tensors, path)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


checkpoint_save = safetensors.torch.save_file

PLACES: dict[str, Callable[[int], None]] = {
    "before the dense update": lambda n: _die_in(Optimizers, "step", n, lambda *_: None),
    "after a step": lambda n: _die_in(History, "count", n),
    "with half a tensor file": lambda n: _die_in(checkpoint_io, "save_file", n, _half),
    "before a rename": lambda n: _die_in(os, "replace", n, lambda *_: None),
    "after a rename": lambda n: _die_in(os, "replace", n),
    "before clearing up": lambda n: _die_in(CheckpointFolder, "_remove_unused", n, lambda *_: None),
    "after a validation": lambda n: _die_in(History, "add_evaluation", n),
    "before the result": lambda n: _die_in(Result, "save", n, lambda *_: None),
    "after the result": lambda n: _die_in(Result, "save", n),
}


def load_all() -> None:
    """Load what a run loads at its first step, so that no fork has to."""
    for name in ("pandas", "compactrec.embeddings.numba_tables"):
        importlib.import_module(name)


def forked(work: Callable[[], None]) -> int:
    """The number of a new process that does ``work`` and ends; its error goes to standard error."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _run(config: TrainConfig, place: str | None, call: int) -> int:
    """The signal that ended the run; 0 where it ended by itself."""

    def work() -> None:
        if place is not None:
            PLACES[place](call)
        train.train(config)

    return os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])


def main() -> None:
    torch.set_num_threads(1)
    load_all()
    for values, kills in json.loads(sys.argv[1]):
        config = TrainConfig.model_validate(values)
        for place, call in kills:
            code = _run(config, place, call)
            if code != -signal.SIGKILL:
                sys.exit(f"the run was to die {place} ({call}), but ended with {code}")
        code = _run(config, None, 0)
        if code:
            sys.exit(f"the last run ended with {code}")


if __name__ == "__main__":
    main()
