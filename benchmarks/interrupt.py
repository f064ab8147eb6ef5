"""SIGINT and SIGTERM as a wish: the step is finished, a checkpoint made, and the run ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from compactrec.benchmarks.processes import EndedTogether, Processes

__all__ = ["Interrupt", "RunInterrupted", "ended_by_sigterm", "noted_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunInterrupted(EndedTogether):
    """A signal ended the run after a checkpoint.

    Args:
        number: of the signal.
        step: that was the last.
        folder: where the checkpoint is.
    """

    def __init__(self, number: int, step: int, folder: Path) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}, which is saved in "
            f"{folder}; the same command goes on from there"
        )
        self.number = number


class Interrupt:
    """The signal that asked this process to end, if there was one."""

    number = 0

    def agreed(self, processes: Processes) -> int:
        """The number of the signal that any process got, the same for all; 0 if there was none.

        Every process must call it, at the same steps.
        """
        asked = processes.sum([self.number == number for number in _SIGNALS])
        return max((n for n, count in zip(_SIGNALS, asked, strict=True) if count), default=0)


@contextmanager
def noted_signals(wanted: bool) -> Iterator[Interrupt]:
    """Within it, where ``wanted``, SIGINT and SIGTERM are noted; what is ignored stays ignored.

    Noted once: the second one does what it always did. Under torchrun all are noted, since it sends
    a Ctrl-C on to processes that had it already.
    """
    interrupt = Interrupt()
    before = {number: signal.getsignal(number) for number in _SIGNALS} if wanted else {}
    before = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        if not interrupt.number and os.environ.get("RANK", "0") == "0":
            # Not print, which this may have interrupted.
            os.write(2, b"\nstopping after this step; a checkpoint is made\n")
        interrupt.number = interrupt.number or number
        if "RANK" not in os.environ:
            put_back()

    for number in before:
        signal.signal(number, note)
    try:
        yield interrupt
    finally:
        put_back()


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within it SIGTERM raises ``SystemExit``, so that what is to be cleared up still is.

    Only in the main thread, and where nobody else handles the signal.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
