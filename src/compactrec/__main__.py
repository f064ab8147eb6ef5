"""``python -m compactrec``: the command line, and what ``torchrun -m compactrec`` starts."""

import sys

from compactrec.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
