"""The models that there are. A model registers itself at the end of its file."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import nn

from compactrec.embeddings.config import first_error
from compactrec.embeddings.feature import Feature

__all__ = ["SMALL_START", "Model", "ModelConfig", "get_model", "model_names", "register_model"]


class ModelConfig(BaseModel):
    """Hyper-parameters of a model. Every one has a default, so a name is enough to train it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    later: ClassVar[frozenset[str]] = frozenset()
    """Options that results from before they were there do not have; their defaults do nothing."""

    def resolved(self) -> dict[str, JsonValue]:
        """Every option, as JSON, without those of ``later`` at their defaults."""
        fields = type(self).model_fields
        idle = {name for name in self.later if getattr(self, name) == fields[name].default}
        return self.model_dump(mode="json", exclude=idle)

    def features(self, features: tuple[Feature, ...]) -> tuple[Feature, ...]:
        """What the model reads of the data's features: those that a plan has to be made for."""
        return features


@dataclass(frozen=True)
class Model:
    """A registered model."""

    name: str
    config: type[ModelConfig]
    module: Callable[..., nn.Module]
    """``module(embeddings, num_dense, config, device=None)``; its ``forward(dense, features)``
    takes ``(B, num_dense)`` and a KeyedJaggedTensor and gives logits ``(B,)``."""
    title: str
    paper: str
    formula: str
    training: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields of the training config that this model is trained with unless a person says otherwise:
    ``{"dense_optimizer": "adagrad"}``. Empty keeps the config's own."""

    def parse(self, options: Mapping[str, Any]) -> ModelConfig:
        """The config of a person's options; ``ValueError`` names the model and what there is."""
        try:
            return self.config.model_validate(dict(options))
        except ValidationError as error:
            allowed = ", ".join(self.config.model_fields) or "none"
            raise ValueError(
                f"model {self.name}: option {first_error(error)}; options are: {allowed}"
            ) from None


SMALL_START: Mapping[str, JsonValue] = {"init_std": 1e-4}
"""Training of a model whose vectors and first-order weights start small, as all do in BARS."""
_FILES = (
    "lr", "fm", "fnn", "wide_deep", "ipnn", "deepfm", "dcn", "dcnv2", "dlrm", "dlrm_dcnv2",
    "xdeepfm", "autoint", "fibinet", "masknet", "finalmlp", "gdcn",
)  # fmt: skip
"""Files of models, imported when somebody asks for one: they need torchrec, and a plan does not."""
_MODELS: dict[str, Model] = {}


def register_model(model: Model) -> Model:
    """Add a model; raise on a second one of the same name."""
    name = model.name
    if not name.isidentifier() or name != name.lower():
        raise ValueError(f"model name {name!r} is not allowed: use a lower-case identifier")
    if name in _MODELS:
        raise ValueError(f"a model named {name!r} is registered already: choose another name")
    _MODELS[name] = model
    return model


def model_names() -> list[str]:
    """The models, in the order of their files here; others last."""
    _import()
    places = {f"compactrec.models.{file}": place for place, file in enumerate(_FILES)}
    return sorted(_MODELS, key=lambda n: places.get(_MODELS[n].config.__module__, len(places)))


def get_model(name: str) -> Model:
    """The model of that name; raise ``ValueError`` naming what there is."""
    _import()
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}: there are {', '.join(model_names())}")
    return _MODELS[name]


def _import() -> None:
    for file in _FILES:
        importlib.import_module(f"compactrec.models.{file}")
