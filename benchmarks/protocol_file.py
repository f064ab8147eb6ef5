"""A published protocol as a file: data, training, models, and the figures with where they are from.

Every file of `benchmarks/protocols/` is one; its name is the protocol's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from compactrec.benchmarks.budgets import parse_budget
from compactrec.benchmarks.choices import FULL
from compactrec.benchmarks.config import TrainConfig
from compactrec.data.protocol import get_protocol
from compactrec.models.registry import get_model
from compactrec.words import read_toml, validated

__all__ = [
    "FigureCell",
    "Figures",
    "ProtocolData",
    "ProtocolFile",
    "ProtocolSearch",
    "SplitName",
    "load_protocol",
    "protocol_names",
    "read_protocol",
]

SplitName = Literal["train", "validation", "test"]
FOLDER = Path(__file__).parent / "protocols"
_NOT_FIXED = ("data", "out", "plan", "start", "method", "budget_bytes", "options", "seed", "model")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProtocolData(_Frozen):
    """How the data is prepared, and what must come out."""

    table: str
    """Schema: `criteo`, or a shipped one."""
    protocol: str
    """Rules of ids and split, see `compactrec.data.protocol`."""
    files: str = Field(min_length=1)
    """Which files, in words."""
    rows: dict[SplitName, int] = {}
    """Rows per split; empty where they are not known."""
    num_ids: int | None = None
    """Ids of all features together; None where it is not known."""
    published_split: Literal["rule", "files"] = "rule"
    """`files`: the published split is in files, so any rule gives another one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        get_protocol(self.protocol)
        return self


class FigureCell(_Frozen):
    """One published number, or several of one run."""

    model: str
    method: str = FULL
    budget: str | None = None
    """Serving bytes; None for the full tables."""
    split: Literal["test", "validation"] = "test"
    auc: float | None = Field(default=None, gt=0, lt=1)
    logloss: float | None = Field(default=None, gt=0)
    accuracy: float | None = Field(default=None, gt=0, lt=1)
    note: str | None = None
    """What is particular to this one."""

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers there are, by name."""
        found = {"auc": self.auc, "logloss": self.logloss, "accuracy": self.accuracy}
        return {name: value for name, value in found.items() if value is not None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.metrics:
            raise ValueError("a figure needs a number: auc, logloss or accuracy")
        if self.split == "validation" and set(self.metrics) != {"auc"}:
            raise ValueError("of validation rows only the auc can be put beside a figure")
        if (self.budget is None) != (self.method == FULL):
            raise ValueError(
                f"a figure of full tables has no budget and every other one has, got method "
                f"{self.method!r} and budget {self.budget!r}"
            )
        if self.budget is not None:
            parse_budget(self.budget)
        return self


class Figures(_Frozen):
    """Figures of one source. None can be without it."""

    source: str = Field(min_length=10)
    """Where they stand."""
    provenance: str = Field(min_length=10)
    """How they got here, in words: read there, quoted by somebody, read off a plot."""
    caveat: str = Field(min_length=10)
    """What keeps ours from being the same number."""
    cells: tuple[FigureCell, ...] = Field(min_length=1)


class ProtocolSearch(_Frozen):
    """A search that a protocol runs beside the full tables."""

    options: dict[str, JsonValue] = {}
    """Of every model."""
    models: dict[str, dict[str, JsonValue]] = Field(min_length=1)
    """Model -> options of its own. Other models of the protocol train full tables alone."""

    def text(self, name: str, model: str) -> str:
        """`optembed:epochs=30:alpha=0.0001`, as `compare --methods` takes it."""
        options = {**self.options, **self.models[model]}
        return ":".join([name, *(f"{k}={json.dumps(v)}" for k, v in options.items())])

    def check(self, name: str, models: Mapping[str, object]) -> None:
        """ValueError for an unknown search, option or model."""
        from compactrec.embeddings.search import get_search
        from compactrec.embeddings.search.base import parse_search_options

        search = get_search(name)
        for model, options in self.models.items():
            if model not in models:
                raise ValueError(f"search {name!r} is of {model!r}, and there are {list(models)}")
            parse_search_options(search, {**self.options, **options})


class ProtocolFile(_Frozen):
    """One protocol."""

    name: str
    title: str = Field(min_length=1)
    sources: tuple[str, ...] = Field(min_length=1)
    """Texts and code that the facts below are from."""
    metric: Literal["auc", "accuracy"] = "auc"
    """What the protocol is judged by."""
    data: ProtocolData
    train: dict[str, JsonValue] = {}
    """Fields of `TrainConfig` that all models share."""
    models: dict[str, dict[str, JsonValue]] = Field(min_length=1)
    """Model -> its options, and the fields of training that differ for it."""
    methods: tuple[str, ...] = ()
    """Methods it compares beside the full tables; none: it is about models. They are looked up when
    it is run, so that the file can be read without them."""
    searches: dict[str, ProtocolSearch] = {}
    """Searches it runs beside the full tables, by name."""
    budgets: tuple[str, ...] = ()
    seeds: int = Field(default=3, ge=1)
    caveats: tuple[str, ...] = ()
    """What is not as published, whatever the data."""
    figures: tuple[Figures, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.methods or self.searches) != bool(self.budgets):
            raise ValueError("methods (or searches) and budgets go together; give both or neither")
        for model in self.models:
            self.config(model, Path("data"), Path("out"))
        for name, search in self.searches.items():
            search.check(name, self.models)
        for figures in self.figures:
            for cell in figures.cells:
                if cell.model not in self.models:
                    raise ValueError(
                        f"a figure is of model {cell.model!r}, and the models are "
                        f"{list(self.models)}"
                    )
        return self

    def config(
        self, model: str, data: Path, out: Path, changes: Mapping[str, Any] | None = None
    ) -> TrainConfig:
        """How `model` is trained; `changes` are fields that win.

        Raises ValueError for a model that is not in the protocol.
        """
        if model not in self.models:
            raise ValueError(
                f"protocol {self.name!r} is about {', '.join(self.models)}, got model {model!r}"
            )
        # What a model states of its own training is no part of a published protocol.
        plain = {k: TrainConfig.model_fields[k].get_default() for k in get_model(model).training}
        fields = {**plain, **self.train, **self.models[model], **(changes or {})}
        taken = sorted(set(fields) & set(_NOT_FIXED))
        if taken:
            raise ValueError(f"{taken} are not for a protocol to fix; leave them out")
        return validated(
            TrainConfig,
            {**fields, "model": model, "data": data, "out": out, "method": FULL},
            also=get_model(model).config.model_fields,
        )

    def methods_of(self, model: str) -> tuple[str, ...]:
        """Methods and searches that are compared under `model`, as `compare` takes them."""
        of = (s.text(name, model) for name, s in self.searches.items() if model in s.models)
        return (*self.methods, *of)

    def published(self, model: str) -> Iterator[tuple[Figures, FigureCell]]:
        """Every figure of a model, with its group."""
        for figures in self.figures:
            for cell in figures.cells:
                if cell.model == model:
                    yield figures, cell


def protocol_names() -> tuple[str, ...]:
    """Names of the protocols that are shipped."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_protocol(name: str) -> ProtocolFile:
    """The shipped protocol of this name; ValueError naming those there are."""
    if name not in protocol_names():
        raise ValueError(f"no protocol {name!r}; there are {', '.join(protocol_names())}")
    return read_protocol(FOLDER / f"{name}.toml")


def read_protocol(path: Path) -> ProtocolFile:
    """A protocol from a file; ValueError, naming it, when it is none."""
    content = read_toml(path, "protocol", "give the path of a protocol file")
    try:
        return validated(ProtocolFile, {"name": path.stem, **content})
    except ValueError as error:
        raise ValueError(f"{path} is no protocol file: {error}") from error
