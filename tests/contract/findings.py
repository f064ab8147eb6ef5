"""What several processes find wrong with many things that they try, said once at the end."""

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from compactrec.benchmarks.environment import describe_environment

__all__ = ["Findings"]

WAIT = timedelta(minutes=5)


class Findings:
    """Of one process; all processes of the group try the same things in the same order.

    Args:
        what: is tried, in the plural.
        file: where to write down what was found, in the folder that the environment variable
            ``COMPACTREC_SHARDED_RESULTS`` names, if it does.
    """

    def __init__(self, what: str, file: str) -> None:
        self._what, self._file = what, file
        self._num_tried = 0
        self._wrong: dict[str, list[str]] = {}
        self._largest: dict[str, tuple[float, str]] = {}
        self._start = time.monotonic()

    @contextmanager
    def trying(self, name: str) -> Iterator[list[str]]:
        """Try one thing: what is wrong with it is put into the list.

        An exception is one more of them, and the next thing is tried if all processes have it.
        Otherwise they are out of step: then what was found so far is raised.
        """
        self._num_tried += 1
        complaints: list[str] = []
        try:
            yield complaints
        except Exception as error:
            self._add(name, [*complaints, "".join(traceback.format_exception(error)).strip()])
            self._wait(error)
        else:
            self._add(name, complaints)

    def difference(self, name: str, kind: str, found: float, limit: float) -> list[str]:
        """A complaint where ``found`` is not below ``limit``; the largest of a kind is kept."""
        self._largest[kind] = max(self._largest.get(kind, (0.0, "")), (found, name))
        return [] if found < limit else [f"sharded differs by {found:.3g}, allowed is {limit:g}"]

    def finish(self) -> None:
        """Raise what all processes found, or let the first one say that it was nothing."""
        everything = [self._wrong] * dist.get_world_size()
        dist.all_gather_object(everything, self._wrong)
        wrong: dict[str, list[str]] = {}
        for of_process in everything:
            for name, complaints in of_process.items():
                known = wrong.setdefault(name, [])
                known += [c for c in complaints if c not in known]
        folder = os.environ.get("COMPACTREC_SHARDED_RESULTS")
        if folder and dist.get_rank() == 0:
            self._write(Path(folder) / self._file, wrong)
        if wrong:
            raise AssertionError(self._text(wrong))
        if dist.get_rank() == 0:
            print(self._text({}))

    def _add(self, name: str, complaints: list[str]) -> None:
        if complaints:
            self._wrong[name] = complaints
            # At once too: a run that is cut off has said it.
            print(f"process {dist.get_rank()}: {name}: {'; '.join(complaints)}", flush=True)

    def _wait(self, error: Exception) -> None:
        try:
            dist.monitored_barrier(timeout=WAIT)
        except RuntimeError:
            raise AssertionError(self._text(self._wrong)) from error

    def _write(self, path: Path, wrong: dict[str, list[str]]) -> None:
        found = {
            "what": self._what,
            "processes": dist.get_world_size(),
            "backend": dist.get_backend(),
            "tried": self._num_tried,
            "wrong": wrong,
            "largest_differences": {
                kind: {"difference": difference, "of": name}
                for kind, (difference, name) in sorted(self._largest.items())
            },
            "seconds": time.monotonic() - self._start,
            "environment": describe_environment(torch.get_num_threads()),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def _text(self, wrong: dict[str, list[str]]) -> str:
        seconds = time.monotonic() - self._start
        lines = [
            f"{len(wrong)} of {self._num_tried} {self._what} went wrong on "
            f"{dist.get_world_size()} processes ({seconds:.0f} s)"
        ]
        lines += [f"  {name}: {'; '.join(complaints)}" for name, complaints in wrong.items()]
        for kind, (found, name) in sorted(self._largest.items()):
            lines.append(f"  largest difference with {kind}: {found:.3g} ({name})")
        return "\n".join(lines)
