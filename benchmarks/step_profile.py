"""Where the time of a training step of one process goes, by torch's profiler."""

import time
from collections.abc import Callable, Mapping, Sequence

from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

__all__ = ["PARTS", "operators", "parts_of", "profiled"]

PARTS: dict[str, Sequence[str]] = {
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm"),
    "waiting for ids": (
        "## KJTAllToAllSplitsAwaitable wait() ##", "## KJTAllToAllTensorsAwaitable wait() ##",
    ),
    "waiting for vectors": ("All2All_Pooled_Wait",),
    "waiting for gradients of vectors": ("All2All_Pooled_ReqBackward",),
    "FBGEMM's lookup and update": (
        "fbgemm::split_embedding_codegen_forward_cpu",
        "fbgemm::split_embedding_backward_codegen_adagrad_cpu",
    ),
}  # fmt: skip
"""Events, none inside another one, whose time with all that they call is the time of a part."""


def operators(run: Callable[[], None], steps: int, most: int = 8) -> dict[str, float]:
    """Milliseconds per step that torch's operators take themselves, the ``most`` longest ones.

    ``run`` does ``steps`` steps, and is called twice: a first profile takes long to begin. The
    first entry, ``step``, is all of a step under the profiler; what no operator has of it is
    Python's, and of kernels that torch does not know, as Numba's are.
    """
    _run_profiled(run)
    seconds, events = _run_profiled(run)
    found = {"step": 1e3 * seconds / steps}
    longest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:most]
    found |= {str(event.key): event.self_cpu_time_total / 1e3 / steps for event in longest}
    return {name: round(milliseconds, 2) for name, milliseconds in found.items()}


def _run_profiled(run: Callable[[], None]) -> tuple[float, Sequence[FunctionEventAvg]]:
    """Seconds that it took, and what the profiler saw, by name."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
    return seconds, profiler.key_averages()


def profiled(run: Callable[[], None], steps: int) -> dict[str, float]:
    """Milliseconds per step of the parts; ``run`` does ``steps`` of them.

    They are of the calling thread: what runs beside it, as the all-reduce of dense gradients does,
    is in none, but for the time that this thread waits for it.
    """
    _, events = _run_profiled(run)
    return parts_of({str(e.key): e.cpu_time_total / 1e3 / steps for e in events})


def parts_of(milliseconds: Mapping[str, float]) -> dict[str, float]:
    """The parts that a step has, from the times of its events by name."""
    found = {
        part: round(sum(milliseconds.get(name, 0.0) for name in names), 2)
        for part, names in PARTS.items()
    }
    return {part: time for part, time in found.items() if time}
