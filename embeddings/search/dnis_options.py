"""What a person may choose of DNIS."""

from typing import Literal, Self

from pydantic import Field, model_validator

from compactrec.embeddings.search.base import SearchOptions

__all__ = ["DnisOptions"]


class DnisOptions(SearchOptions):
    """Defaults and, where they differ, the published values: those of the authors' code for the
    journal version, AutoSrh."""

    blocks: Literal["quantile", "explicit", "per_field_quantile"] = "quantile"
    """``quantile``: equally many rows a block, over all searched features ranked together; a block
    has one gate whatever the feature. ``explicit``: the same, cut at ``cuts``.
    ``per_field_quantile``: blocks and gates of every feature by itself. Published: the first two,
    over the one table of all features."""
    num_blocks: int = Field(default=6, ge=1)
    """Of ``quantile`` and ``per_field_quantile``. Published: 10 for MovieLens-20M, 6 for Criteo."""
    cuts: tuple[int | float, ...] = ()
    """Of ``explicit``: where blocks begin, most frequent rows first. Whole numbers are ranks,
    others shares of the rows."""
    split_ties: bool = False
    """False moves a cut to where the frequency changes. Published: True."""
    warm_epochs: int = Field(default=1, ge=0)
    """At most so many epochs with all gates at one. Published: 20."""
    search_epochs: int = Field(default=1, ge=1)
    """At most so many epochs of the search. Published: 50 to 100, of the ``shorter`` kind."""
    patience: int | None = Field(default=None, ge=1)
    """A phase ends after so many validations without a better AUC. Published: none, but a rate
    that falls on a plateau, and an end when it is tiny."""
    keep: Literal["best", "last"] = "best"
    """Which state of the search is derived from. Published: the best validation loss; ours is the
    best AUC."""
    search_weights: Literal["all", "embeddings_only"] = "embeddings_only"
    """What the weights' optimizers move during the search. Published: ``embeddings_only``, though
    the objective is over all weights. Which is better differed between two small tests of ours."""
    epoch_ends: Literal["train", "shorter"] = "train"
    """``train``: all training batches, validation rows begin again when they run out, so that a
    small validation split does not make a short search. Published: ``shorter``."""
    alpha_learning_rate: float = Field(default=1e-2, gt=0)
    """Of plain SGD. As gradients have mean 1, a gate can close within ``1 / rate`` steps.
    Published: 1e-2 in the scripts, 1e-3 by default."""
    l1: float = Field(default=1e-5, ge=0)
    """Weight of ``||alpha||_1``. It is normalised with the rest of the gradient: a block that a
    validation batch does not touch moves by it alone, at the full rate. Published: 1e-5."""
    normalize: bool = False
    """Gates divided by their sum and multiplied by D. Published: False."""
    second_order: bool = False
    """Differentiate through a step of the weights, by finite differences: four passes a step
    instead of one. Published: False; True goes through a step of Adam, ours through a plain
    one."""
    xi: float | None = Field(default=None, ge=0)
    """Length of that step; None is the learning rate of the tables."""
    structure: Literal["unstructured", "structured"] = "unstructured"
    """``unstructured``: single values, layout ``sparse``. ``structured``: for every block the
    columns of largest mean magnitude, layout ``pruned``: dense tables, nothing to look up per
    value. Published: unstructured."""
    ratio: float | None = Field(default=None, ge=0, le=1)
    """Where no budget is given: the share of values that is dropped. Published: e.g. 0.95."""
    threshold: float | None = Field(default=None, ge=0)
    """Where no budget is given: keep ``|value|`` of at least this; structured, columns whose mean
    is above it. With neither, only what is exactly zero is dropped."""
    retrain: Literal["none", "frozen_alpha_then_prune", "prune_then_masked_finetune"] = "none"
    """``none``: serve the pruned search state. ``frozen_alpha_then_prune``: train on with the gates
    as they are, prune, serve. ``prune_then_masked_finetune``: prune, then train what is left like
    any plan; that is one more pass over the data, and on clicks that are over-fitted within an
    epoch or two it loses more than it mends. Published: the second, above 98 % pruned."""
    retrain_epochs: int = Field(default=2, ge=1)
    """Of ``frozen_alpha_then_prune``. Published: 2."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.blocks == "explicit") != bool(self.cuts):
            raise ValueError(f"cuts go with blocks 'explicit', got {self.blocks!r} and {self.cuts}")
        if any(c <= 0 or (isinstance(c, float) and c >= 1) for c in self.cuts):
            raise ValueError(f"cuts are ranks from 1 on or shares between 0 and 1, got {self.cuts}")
        if self.ratio is not None and self.threshold is not None:
            raise ValueError(f"give ratio or threshold, got both: {self.ratio}, {self.threshold}")
        return self
