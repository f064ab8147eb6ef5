"""Fields of the training config, and options of the model, that `--config` and `--set` give."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compactrec.models.registry import Model

__all__ = ["CALLED", "Fields", "hint", "read_fields"]

_WORD = re.compile(r"[A-Za-z_][\w.:/+-]*")
_OF_COMMANDS = {"plan", "method", "budget_bytes"}
_INSTEAD = "give --plan FILE, or --method NAME with --budget SIZE, where the command has them"


CALLED = {
    "embedding_dim": "dim",
    "hidden_units": "hidden",
    "dnn_hidden_units": "hidden",
    "net_dropout": "dropout",
    "lr": "table_learning_rate and dense_learning_rate",
    "learning_rate": "table_learning_rate and dense_learning_rate",
    "optimizer": "table_optimizer and dense_optimizer",
    "weight_decay": "table_decay, dense_weight_decay and embedding_decay",
    "embedding_regularizer": "embedding_decay",
    "threads": "num_threads",
}
"""Names that people know from elsewhere -> what they are called here."""


def hint(name: str, model: Model | None = None) -> str:
    """What is known of a field that ``model`` does not have; ``""`` for nothing."""
    from compactrec.models import get_model, model_names

    if name in CALLED:
        return f"here it is {CALLED[name]}"
    owners = [other for other in model_names() if name in get_model(other).config.model_fields]
    if model is None or not owners:
        return ""
    return (
        f"it is an option of {', '.join(owners)}, and {model.name} has "
        f"{', '.join(model.config.model_fields) or 'none'}"
    )


@dataclass(frozen=True)
class Fields:
    """What was given, those of the file under those of `--set`."""

    values: dict[str, Any]
    file: Path | None
    in_file: frozenset[str]
    """First names of fields."""
    in_settings: tuple[str, ...]
    """Whole names: ``schedule.plateau_factor``."""

    def where(self, field: str) -> tuple[str, str]:
        """The file that gave a field, ``""`` for none, and how the field is called there."""
        if any(_overlap(field, name) for name in self.in_settings):
            return "", f"--set {field}"
        return str(self.file) if field.partition(".")[0] in self.in_file else "", field

    def check(self) -> None:
        """Raise ValueError for names and values that no model could be trained with.

        Each field by itself, as what goes together is known with the rest alone.
        """
        from pydantic import ValidationError

        from compactrec.benchmarks.config import TrainConfig
        from compactrec.models import get_model, model_names
        from compactrec.words import problems, sentence

        options = {name for model in model_names() for name in get_model(model).config.model_fields}
        options -= TrainConfig.model_fields.keys()
        training = {name: value for name, value in self.values.items() if name not in options}
        try:
            TrainConfig.model_validate({**training, "data": "data", "out": "out", "method": "full"})
        except ValidationError as error:
            found = [(f, text) for f, text in problems(error, TrainConfig, options, hint) if f]
            if found:
                raise ValueError(sentence(found, self.where)) from error


def read_fields(
    file: Path | None, settings: Iterable[str] | None, options: Mapping[str, str]
) -> Fields:
    """Fields of a TOML file, and of texts such as ``schedule.plateau_factor=0.1``, which win.

    ``options`` are the fields that are given otherwise, with the option that does: `--set` cannot
    give them too. Raises ValueError for that, and for what cannot be read.
    """
    from compactrec.words import read_toml

    given = _parsed(settings or ())
    written = {}
    if file is not None:
        written = read_toml(
            file,
            "--config",
            "give the path of a TOML file with fields of the training config, such as "
            "batch_size = 2048, or leave --config out",
        )
    if told := sorted(_OF_COMMANDS & written.keys()):
        raise ValueError(
            f"{file} sets {', '.join(told)}, which a command line says; take it out of the file, "
            f"and {_INSTEAD}"
        )
    for name in given:
        first = name.partition(".")[0]
        if first in _OF_COMMANDS:
            raise ValueError(f"--set cannot give {first}; {_INSTEAD}")
        if first in options:
            raise ValueError(
                f"--set gives {name}, which {options[first]} says; leave --set {name} out"
            )
    return Fields(_laid_over(written, given), file, frozenset(written), tuple(given))


def _parsed(texts: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not all(name.split(".")):
            raise ValueError(f"--set {text}: give NAME=VALUE, such as --set dropout=0.2")
        if any(_overlap(name, other) for other in found):
            raise ValueError(f"--set gives {name} twice; give it once")
        found[name] = _value(text, value)
    return found


def _value(text: str, value: str) -> Any:
    """A value of TOML; a word that is none is itself."""
    try:
        (read,) = tomllib.loads(f"value = {value}").values()
    except ValueError as error:
        if _WORD.fullmatch(value):
            return value
        raise ValueError(
            f"--set {text}: {value!r} is no value of TOML; give a number such as 0.1, true or "
            f"false, a list such as [64, 32], or text in quotes"
        ) from error
    return read


def _laid_over(written: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` wins: by its dotted names, and over options of the model, which may stand in
    ``model_options`` or beside it."""
    made = deepcopy(dict(written))
    for name, value in given.items():
        *folders, last = name.split(".")
        here = made
        for folder in folders:
            if not isinstance(here.get(folder), dict):
                here[folder] = {}
            here = here[folder]
        here[last] = value
        inside = made.get("model_options")
        if not folders and isinstance(inside, dict):
            inside.pop(name, None)
        if folders == ["model_options"]:
            made.pop(last, None)
    return made


def _overlap(one: str, other: str) -> bool:
    """Whether one of two dotted names is the other or holds it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
