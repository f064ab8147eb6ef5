"""The entry point `compactrec`: runs a command and turns what goes wrong into words.

Exit codes: 0 done, 1 it did not work (the reason is printed), 2 the command line is wrong, 130 it
was interrupted, 143 by SIGTERM. The commands are in `compactrec.commands`; a traceback is printed
with `--debug` only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["explain", "main"]

INTERRUPTED = 130

_STUDY = frozenset(
    {
        "duckdb", "jinja2", "markupsafe", "matplotlib", "pandas", "polars", "pyarrow", "rich",
        "scipy", "sklearn", "typer",
    }
)  # fmt: skip
_TORCHREC = frozenset({"fbgemm_gpu", "tensordict", "torchmetrics", "torchrec"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` are those of the process unless given. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        from compactrec.commands import app

        words = [word for word in words if word != "--debug"]
        code = app(words, prog_name="compactrec", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # the command line is wrong
            error.show()
            return _say(advice, 2) if (advice := _advice(error)) else int(error.exit_code)
        if type(error).__name__ == "RunInterrupted":
            code = 128 + int(getattr(error, "number", 0))
            return _say(str(error), code) if os.environ.get("RANK", "0") == "0" else code
        reason = explain(error)
        if debug or reason is None:
            raise
        return _say(f"error{_process(error)}: {reason}", 1) if _speaks(error) else 1
    if code == INTERRUPTED:  # Typer's own code for Ctrl-C
        return _say(
            "stopped; the same command goes on from the last checkpoint, if there is one",
            INTERRUPTED,
        )
    return code if isinstance(code, int) else 0


def _advice(error: Exception) -> str:
    """For an option that is none, but names a field of training or of the model."""
    context = getattr(error, "ctx", None)
    options = [] if context is None else [o for p in context.command.params for o in p.opts]
    if type(error).__name__ != "NoSuchOption" or "--set" not in options:
        return ""
    from compactrec.benchmarks.config import TrainConfig
    from compactrec.fields import CALLED
    from compactrec.models import get_model, model_names

    given = str(getattr(error, "option_name", ""))
    name = given.lstrip("-").replace("-", "_")
    fields = {*TrainConfig.model_fields}.union(
        *(get_model(model).config.model_fields for model in model_names())
    )
    if name in CALLED:
        return f"{given}: here it is {CALLED[name]}; see --help, or give it with --set NAME=VALUE"
    return f"{given}: give it with --set {name}=VALUE" if name in fields else ""


def explain(error: Exception) -> str | None:
    """What to tell a person about an error; None for a bug, which deserves its traceback."""
    from pydantic import ValidationError

    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if isinstance(error, ValidationError):
        from compactrec.words import problems

        return "; ".join(f"{field or error.title}: {text}" for field, text in problems(error))
    if isinstance(error, MemoryError):
        return "not enough memory; use a smaller --batch-size, fewer --jobs or a smaller --dim"
    if isinstance(error, OSError) and "fbgemm" in str(error):
        return f"{error}; FBGEMM does not fit this machine: {_INSTALL}"
    if isinstance(error, ValueError | OSError):
        return str(error) or type(error).__name__
    if isinstance(error, RuntimeError) and type(error).__module__.startswith("compactrec."):
        return str(error)
    return None


def _speaks(error: Exception) -> bool:
    """Whether this process of those that torchrun started says what went wrong.

    Of a group only the one that failed first does. Before there is a group, as with a wrong option,
    one of each machine does.
    """
    if type(error).__name__ == "AnotherFailed":
        return False
    return bool(_process(error)) or os.environ.get("LOCAL_RANK", "0") == "0"


def _process(error: Exception) -> str:
    """`` in process 1 of 2``, where an error knows it."""
    notes: list[str] = getattr(error, "__notes__", [])
    return f" in {notes[0]}" if notes else ""


_INSTALL = "in the checkout, with a GPU \"pip install '.[gpu]'\", without one 'make setup'"


def _missing(error: ModuleNotFoundError) -> str | None:
    package = (error.name or "").partition(".")[0]
    if package in _STUDY:
        return (
            f"this command needs {package!r}, which is not installed; install what the command "
            "line needs with \"pip install '.[study]'\" in the checkout"
        )
    if package in _TORCHREC:
        return f"this command needs {package!r}, which is not installed; {_INSTALL}"
    return None


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
