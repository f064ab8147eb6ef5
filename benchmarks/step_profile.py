"""Where the time of a training step of one process goes, by torch's profiler."""

from collections.abc import Callable, Mapping, Sequence

from torch.profiler import ProfilerActivity, profile

__all__ = ["PARTS", "parts_of", "profiled"]

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


def profiled(run: Callable[[], None], steps: int) -> dict[str, float]:
    """Milliseconds per step of the parts; ``run`` does ``steps`` of them.

    They are of the calling thread: what runs beside it, as the all-reduce of dense gradients does,
    is in none, but for the time that this thread waits for it.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    events = profiler.key_averages()
    return parts_of({e.key: e.cpu_time_total / 1e3 / steps for e in events})


def parts_of(milliseconds: Mapping[str, float]) -> dict[str, float]:
    """The parts that a step has, from the times of its events by name."""
    found = {
        part: round(sum(milliseconds.get(name, 0.0) for name in names), 2)
        for part, names in PARTS.items()
    }
    return {part: time for part, time in found.items() if time}
