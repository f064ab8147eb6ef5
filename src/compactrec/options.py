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

    def train_config(
        self, data: Path, out: Path, seed: int | None = None, start: Path | None = None
    ) -> TrainConfig:
        """The training config of these options, for full tables."""
        fields = asdict(self)
        file = fields.pop("config")
        return train_config(
            file, {**fields, "data": data, "out": out, "seed": seed, "start": start}
        )

    def given(self) -> dict[str, Any]:
        """What was asked for: the fields of the TOML file, then the options that are not None.

        Raises ValueError for names and values that no model could be trained with.
        """
        fields = asdict(self)
        file = fields.pop("config")
        written = _fields_of(file)
        _check_file(file, written)
        return {**written, **{k: v for k, v in fields.items() if v is not None}}

    def model_words(self) -> str:
        """The options that decide which model is trained, as they stand on a command line."""
        given = {"config": self.config, "model": self.model, "dim": self.dim}
        return shlex.join(
            word for k, v in given.items() if v is not None for word in (f"--{k}", str(v))
        )


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


def train_config(file: Path | None, options: Mapping[str, object]) -> TrainConfig:
    """Defaults, then the fields of the TOML file, then the options that are not None."""
    from compactrec.benchmarks.config import TrainConfig
    from compactrec.models import get_model
    from compactrec.words import validated

    given = {name: value for name, value in options.items() if value is not None}
    written = _fields_of(file)
    words = _option_words()

    def where(field: str) -> tuple[str, str]:
        name = field.partition(".")[0]
        if name in given:
            return "", words.get(name, f"--{name}")
        return str(file) if name in written else "", field

    if told := sorted({"plan", "method", "budget_bytes"} & written.keys()):
        raise ValueError(
            f"{file} sets {', '.join(told)}, which a command line says; take it out of the file, "
            f"and give --plan FILE, or --method NAME with --budget SIZE, where the command has them"
        )
    fields = {**written, **given, "method": "full"}
    model = get_model(str(fields.get("model", TrainConfig.model_fields["model"].default)))
    return validated(TrainConfig, fields, where, model.config.model_fields)


def _check_file(file: Path | None, written: Mapping[str, Any]) -> None:
    """Each field by itself, as what goes together is known with the rest alone."""
    from pydantic import ValidationError

    from compactrec.benchmarks.config import TrainConfig
    from compactrec.models import get_model, model_names
    from compactrec.words import problems

    options = {name for model in model_names() for name in get_model(model).config.model_fields}
    options -= TrainConfig.model_fields.keys()
    training = {name: value for name, value in written.items() if name not in options}
    try:
        TrainConfig.model_validate({**training, "data": "data", "out": "out", "method": "full"})
    except ValidationError as error:
        found = [f"{f}: {text}" for f, text in problems(error, TrainConfig, options) if f]
        if found:
            raise ValueError(f"{file}: {'; '.join(found)}") from error


def _option_words() -> dict[str, str]:
    """How a field of training is called on the command line: ``--table-lr``."""
    words = {}
    for name, parameter in inspect.signature(TrainOptions, eval_str=True).parameters.items():
        (option,) = parameter.annotation.__metadata__
        # Typer takes the first word for a default until it makes a command of it.
        declared = [option.default, *(option.param_decls or ())]
        found = [word for word in declared if isinstance(word, str) and word.startswith("--")]
        words[name] = found[0] if found else f"--{name.replace('_', '-')}"
    return words


def _fields_of(file: Path | None) -> dict[str, Any]:
    from compactrec.words import read_toml

    if file is None:
        return {}
    return read_toml(
        file,
        "--config",
        "give the path of a TOML file with fields of the training config, such as "
        "batch_size = 2048, or leave --config out",
    )


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
