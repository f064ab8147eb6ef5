"""``python -m compactrec`` in a process that is killed after twelve steps; started by torchrun."""

import sys

from compactrec.cli import main
from tests.benchmarks.kill_runner import PLACES

if __name__ == "__main__":
    PLACES["after a step"](11)
    sys.exit(main())
