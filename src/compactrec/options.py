"""Options that several commands have, and what their words mean."""

from __future__ import annotations

import functools
import inspect
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from compactrec.fields import hint, read_fields

if TYPE_CHECKING:
    from compactrec.benchmarks.config import TrainConfig
    from compactrec.benchmarks.tuning import Tuning

__all__ = [
    "BUDGET",
    "ConfigFile",
    "Data",
    "Dim",
    "ModelName",
    "Sampler",
    "Settings",
    "SpaceFile",
    "TrainOptions",
    "listed",
    "number",
    "only_data",
    "train_config",
    "tuning_of",
    "with_train_options",
]

BUDGET = "Serving bytes: 64MB, 1.5GB, 64MiB, or a part of the full tables: 1/4, 0.25x, 25%."
Data = Annotated[Path, Option("--data", help="Data folder, as `prepare` makes it.")]
Dim = Annotated[int | None, Option(min=1, help="Width of the embedding vectors. [16]")]

ModelName = Annotated[str | None, Option(help="Name of the model. [dlrm]", metavar="NAME")]
ConfigFile = Annotated[
    Path | None,
    Option(
        help="TOML file with further fields of the training config and options of the model; "
        "options here win."
    ),
]
Settings = Annotated[
    list[str] | None,
    Option(
        "--set",
        help="A field that --config may give, as a value of TOML: dropout=0.2, "
        "schedule.plateau_factor=0.1; may be repeated, and wins over the file.",
        metavar="NAME=VALUE",
    ),
]
SpaceFile = Annotated[
    Path | None, Option(help="TOML file of what tuning chooses from. [rates, decay, dropout]")
]
Sampler = Annotated[
    str | None,
    Option(
        help="Where settings come from: sobol, the same for all; or tpe, by what a cell's trials "
        "gave (needs the extra 'tune'). [sobol]",
        metavar="NAME",
    ),
]


@dataclass(frozen=True)
class TrainOptions:
    """What `train` and `compare` take alike; None is the default of the training config."""

    model: ModelName = None
    dim: Dim = None
    epochs: Annotated[int | None, Option(min=0, help="Passes over the training rows. [1]")] = None
    batch_size: Annotated[int | None, Option(min=1, help="Rows per step. [2048]")] = None
    table_learning_rate: Annotated[
        float | None, Option("--table-lr", help="Learning rate of tables. [0.02]")
    ] = None
    dense_learning_rate: Annotated[
        float | None, Option("--dense-lr", help="Learning rate of the rest. [0.001]")
    ] = None
    table_optimizer: Annotated[
        str | None,
        Option(
            help="sgd, adagrad, rowwise_adagrad, or adam (lazy, on CPU); with engine eager "
            "also amsgrad and lamb. [adagrad]",
            metavar="NAME",
        ),
    ] = None
    kernel: Annotated[
        str | None,
        Option(help="What updates tables: auto, numba or fbgemm. [auto]", metavar="NAME"),
    ] = None
    table_decay: Annotated[float | None, Option(min=0, help="Weight decay of tables. [0]")] = None
    decay_mode: Annotated[
        str | None,
        Option(
            help="dense_coupled, dense_decoupled or touched_rows. [touched_rows]", metavar="NAME"
        ),
    ] = None
    engine: Annotated[
        str | None,
        Option(help="fused, eager, or sharded over torchrun's processes. [fused]", metavar="NAME"),
    ] = None
    pipeline: Annotated[
        bool | None, Option("--pipeline", help="Engine sharded: exchange ids ahead.")
    ] = None
    device: Annotated[str | None, Option(help="Torch device. [cpu]")] = None
    dense_dtype: Annotated[
        str | None,
        Option(help="Products of the model: float32 or bfloat16. [float32]", metavar="NAME"),
    ] = None
    num_threads: Annotated[
        int | None, Option("--threads", min=1, help="Threads per run. [all cores]")
    ] = None
    tensorboard: Annotated[
        bool | None, Option("--tensorboard", help="Write curves of training into the run's folder.")
    ] = None
    config: ConfigFile = None
    settings: Settings = None

    def train_config(
        self, data: Path, out: Path, seed: int | None = None, start: Path | None = None
    ) -> TrainConfig:
        """The training config of these options, for full tables."""
        own = {**self._own(), "data": data, "out": out, "seed": seed, "start": start}
        return train_config(self.config, own, self.settings)

    def given(self) -> dict[str, Any]:
        """What was asked for: the TOML file, then `--set` and the options that are not None.

        Raises ValueError for names and values that no model could be trained with.
        """
        own = {name: value for name, value in self._own().items() if value is not None}
        fields = read_fields(self.config, self.settings, _words_of(own))
        fields.check()
        return {**fields.values, **own}

    def gives(self, field: str) -> bool:
        """Whether a field has an option of its own here, or `--set`."""
        names = [text.partition("=")[0].strip() for text in self.settings or ()]
        return field in names or self._own().get(field) is not None

    def _own(self) -> dict[str, Any]:
        """The fields of training that have options of their own."""
        return {k: v for k, v in asdict(self).items() if k not in ("config", "settings")}

    def model_words(self) -> str:
        """The options that decide which model is trained, as they stand on a command line."""
        given: list[tuple[str, object]]
        given = [("config", self.config), ("model", self.model), ("dim", self.dim)]
        given += [("set", text) for text in self.settings or ()]
        return shlex.join(word for k, v in given if v is not None for word in (f"--{k}", str(v)))


def with_train_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with a parameter `options: TrainOptions` -> one with an option for each field."""
    shared = inspect.signature(TrainOptions, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        options = TrainOptions(**{name: given.pop(name) for name in shared})
        command(options=options, **given)

    kept = [parameter for name, parameter in own.parameters.items() if name != "options"]
    vars(run)["__signature__"] = own.replace(parameters=[*kept, *shared.values()])
    return run


def train_config(
    file: Path | None, options: Mapping[str, object], settings: Sequence[str] | None = None
) -> TrainConfig:
    """Defaults, then the TOML file, then ``settings`` and the options that are not None."""
    from compactrec.benchmarks.config import TrainConfig
    from compactrec.models import get_model
    from compactrec.words import validated

    given = {name: value for name, value in options.items() if value is not None}
    words = _words_of(given)
    written = read_fields(file, settings, words)

    def where(field: str) -> tuple[str, str]:
        name = field.partition(".")[0]
        return ("", words[name]) if name in words else written.where(field)

    fields = {**written.values, **given, "method": "full"}
    model = get_model(str(fields.get("model", TrainConfig.model_fields["model"].default)))
    options_of_model = model.config.model_fields
    return validated(TrainConfig, fields, where, options_of_model, lambda name: hint(name, model))


def _words_of(fields: Iterable[str]) -> dict[str, str]:
    """How fields of training are called on the command line: ``--table-lr``."""
    words = {name: f"--{name}" for name in fields}
    for name, parameter in inspect.signature(TrainOptions, eval_str=True).parameters.items():
        (option,) = parameter.annotation.__metadata__
        # Typer takes the first word for a default until it makes a command of it.
        declared = [option.default, *(option.param_decls or ())]
        found = [word for word in declared if isinstance(word, str) and word.startswith("--")]
        if name in words:
            words[name] = found[0] if found else f"--{name.replace('_', '-')}"
    return words


def tuning_of(
    trials: int | None, space: Path | None, sampler: str | None, seed: int | None = None
) -> Tuning:
    """How cells are tuned; no trials: not at all. Raises ValueError for options without effect."""
    from compactrec.benchmarks.space import Space
    from compactrec.benchmarks.tuning import Tuning

    if (trials is None or trials < 2) and (space or sampler):
        raise ValueError(
            f"{'--space' if space else '--sampler'} is for tuning, and nothing is tuned; give "
            f"--trials with two or more"
        )
    given = {
        "num_trials": trials, "sampler": sampler, "seed": seed,
        "space": None if space is None else Space.load(space),
    }  # fmt: skip
    return Tuning.model_validate({name: v for name, v in given.items() if v is not None})


def listed(texts: Iterable[str]) -> tuple[str, ...]:
    """Comma-separated words; a comma within brackets belongs to its word: `a:dims=[8,2],b`."""
    words = [""]
    for text in texts:
        depth = 0
        for character in f"{text},":
            depth += (character in "[{") - (character in "]}")
            if character == "," and depth <= 0:
                words.append("")
            else:
                words[-1] += character
    return tuple(word.strip() for word in words if word.strip())


def number(text: str) -> str | int:
    """A whole number where the text is one."""
    return int(text) if text.isdigit() else text


def only_data(
    data: Sequence[Path], budget: object, validation: object, test: object, allow_changes: bool
) -> Path:
    """The data folder of a comparison without a protocol.

    Raises ValueError where there is no budget, or what only a protocol can use was given.
    """
    if validation or test or allow_changes or len(data) != 1:
        raise ValueError(
            "several --data, --validation-file, --test-file and --allow-changes go with "
            "--protocol; without one give one data folder, as 'compactrec prepare' makes it"
        )
    if not budget:
        raise ValueError("give --budget, such as 1/4 or 64MB, or a --protocol that has its own")
    return data[0]
