"""What each process of the test of a lost process runs: a file for spawned processes."""

import os
import signal
import sys

from compactrec.benchmarks.processes import joined

__all__ = ["main"]


def main() -> None:
    """Exchange numbers until one process is killed; say what the other one raises."""
    try:
        with joined("sharded", "cpu") as processes:
            for step in range(1000):
                if step == 3 and not processes.is_first:
                    os.kill(os.getpid(), signal.SIGKILL)
                processes.sum([1.0] * 1000)
    except Exception as error:
        print(type(error).__name__, error)
        sys.exit(1)


if __name__ == "__main__":
    main()
