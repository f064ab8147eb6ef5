"""Trains again and again, killed by SIGKILL after a random time; `kill_runner.py` kills at places.

Started by `test_kills.py` in a process of its own; every run is a fork of it, so that everything is
imported once. The arguments are a folder and JSON, ``[[name, config, num_processes, kills,
moment], ...]``; a config of null is the loop that saves asynchronously. The moment is ``any``,
``saved`` (any after the first save) or ``saving`` (inside a later save, as soon as one is seen).

A killed run goes on, and is killed again. After each kill the checkpoint must be whole and no older
than before, and a copy of the folder goes on to its end, to the bytes of the run that was never
killed. Where a run has ended before its time, another one begins.
"""

import functools
import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compactrec.benchmarks import train
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.result import MODEL_NAME
from compactrec.embeddings import CheckpointFolder
from tests.benchmarks import saving_loop
from tests.benchmarks.kill_runner import forked, load_all
from tests.ports import free_port

FOLDER, INDEX = "checkpoint", "checkpoint.json"
PATIENCE = 120.0
"""Seconds for the processes that are left when one is killed."""


@dataclass(frozen=True)
class Job:
    """One way to train."""

    name: str
    config: dict[str, Any] | None
    num_processes: int
    num_kills: int
    moment: str

    def train(self, out: Path) -> None:
        if self.config is None:
            saving_loop.train(out)
        else:
            train.train(TrainConfig.model_validate({**self.config, "out": out}))

    @property
    def weights(self) -> str:
        return saving_loop.WEIGHTS if self.config is None else MODEL_NAME


def _run(job: Job, out: Path, kill: tuple[float, int] | None = None) -> list[int]:
    """How every process ended; ``kill`` is after how many seconds which of them is killed.

    The seconds count from the job's moment; without one from the start.
    """
    out.mkdir(exist_ok=True)
    port = str(free_port())
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(job.num_processes)}
    shared["LOCAL_WORLD_SIZE"] = shared["WORLD_SIZE"]

    def work(rank: int) -> None:
        if job.num_processes > 1:
            os.environ |= {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        job.train(out)

    children = [forked(functools.partial(work, rank)) for rank in range(job.num_processes)]
    if kill is not None:
        _await(job.moment, out / FOLDER)
        time.sleep(kill[0])
        os.kill(children[kill[1]], signal.SIGKILL)
    return [_ended(child, kill is not None) for child in children]


def _await(moment: str, folder: Path) -> None:
    """Return at the moment, or when it does not come within the time of a few runs."""
    start = time.monotonic()
    while moment != "any" and time.monotonic() - start < PATIENCE / 4:
        if (folder / INDEX).is_file() and (moment == "saved" or _unknown(folder)):
            return
        time.sleep(0.0005)


def _unknown(folder: Path) -> list[str]:
    """Files that the index does not name: of a save that has not come to its end."""
    index = json.loads((folder / INDEX).read_text())
    sets = [found for found in (index["tensors"], index["best"]) if found]
    known = {file["name"] for tensors in sets for file in tensors["files"]} | {INDEX}
    return [path.name for path in folder.iterdir() if path.is_file() and path.name not in known]


def _ended(child: int, impatient: bool) -> int:
    """Its exit code; what is left of a killed run is given a while, as torchrun does."""
    start = time.monotonic()
    while impatient and time.monotonic() - start < PATIENCE:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    if impatient:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _checked(out: Path, before: int) -> tuple[int, bool]:
    """The step of the checkpoint, every byte of which is read, and whether a save was cut off."""
    folder = out / FOLDER
    if not (folder / INDEX).is_file():
        if before:
            sys.exit(f"{folder} had a checkpoint of step {before} before the kill, and has none")
        return 0, folder.is_dir() and any(folder.glob("*.safetensors*"))
    identity = json.loads((folder / INDEX).read_text())["identity"]
    with CheckpointFolder(folder, identity) as store:
        found = store.load()
        assert found is not None
        store.read(found.tensors)
    if found.step < before:
        sys.exit(f"{folder} is of step {found.step}, it was of step {before} before the kill")
    return found.step, bool(_unknown(folder))


def _attempt(job: Job, root: Path, seed: int) -> list[dict[str, Any]]:
    """Kill as often as is asked for; what each kill left."""
    draw = random.Random(seed)
    whole, start = root / "whole", time.monotonic()
    if any(_run(job, whole)):
        sys.exit(f"{job.name}: the run that is not killed failed")
    seconds = time.monotonic() - start
    expected = (whole / job.weights).read_bytes()
    found: list[dict[str, Any]] = []
    number, step = 0, 0
    for tried in range(20 * job.num_kills):
        if len(found) == job.num_kills:
            break
        out = root / f"killed-{number}"
        delay = {
            "any": draw.uniform(0.2 * seconds, seconds),  # before that it is starting
            "saved": draw.uniform(0, 0.5 * seconds),
            "saving": 0.0,
        }[job.moment]
        rank = draw.randrange(job.num_processes)
        codes = _run(job, out, (delay, rank))
        if codes[rank] != -signal.SIGKILL or (out / job.weights).exists():
            number, step = number + 1, 0  # it had ended, or nearly
            continue
        step, is_torn = _checked(out, step)
        copy = root / f"copy-{tried}"
        shutil.copytree(out, copy)
        if any(_run(job, copy)):
            sys.exit(f"{job.name}: the run killed after {delay:.3f} s does not go on")
        if (copy / job.weights).read_bytes() != expected:
            sys.exit(f"{job.name}: the run killed after {delay:.3f} s ends with other weights")
        shutil.rmtree(copy)
        if job.moment == "saving" and not is_torn:
            continue  # the save was done before the kill came
        found.append({"seconds": round(delay, 3), "rank": rank, "step": step, "torn": is_torn})
    return found


def main() -> None:
    torch.set_num_threads(1)
    load_all()
    root = Path(sys.argv[1])
    found = {}
    for seed, values in enumerate(json.loads(sys.argv[2])):
        job = Job(*values)
        (root / job.name).mkdir()
        found[job.name] = _attempt(job, root / job.name, seed)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
