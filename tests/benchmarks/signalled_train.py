"""``python -m compactrec`` in a process that gets a signal after so many steps.

The environment says which, after which step, and to which process of torchrun; or nothing.
"""

import os
import signal
import sys

from compactrec.benchmarks.history import History
from compactrec.cli import main


def run() -> int:
    """The command line's words; without a signal where the environment names none."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job of the background
    words = os.environ["SIGNALLED"].split()
    if words:
        _signal_at(*(int(word) for word in words))
    return main()


def _signal_at(number: int, step: int, rank: int) -> None:
    real = History.count

    def count(self: History, loss: float, batch_size: int) -> None:
        """Count a step; send the signal after the one asked for."""
        real(self, loss, batch_size)
        if self.step == step and os.environ.get("RANK", "0") == str(rank):
            os.kill(os.getpid(), number)

    History.count = count  # type: ignore[method-assign] # that is how the signal gets there


if __name__ == "__main__":
    sys.exit(run())
