"""What a comparison under a protocol carries: figures, caveats, and what is not as fixed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ProtocolNote", "Published"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Published(_Frozen):
    """A published figure and the cell it belongs to."""

    method: str
    budget_bytes: int | None
    split: Literal["test", "validation"]
    metrics: dict[str, float] = Field(min_length=1)
    source: str = Field(min_length=1)
    provenance: str = Field(min_length=1)
    caveat: str = Field(min_length=1)


class ProtocolNote(_Frozen):
    """The protocol of a comparison, for one model."""

    name: str
    title: str
    model: str
    changes: tuple[str, ...] = ()
    """What was changed on purpose: `batch_size 4096 instead of 10000`."""
    marks: tuple[str, ...] = ()
    """What the data has otherwise: `a sample: 45,840 of 45,840,617 rows`."""
    caveats: tuple[str, ...] = ()
    """What is not as published in any case."""
    figures: tuple[Published, ...] = ()

    @property
    def deviations(self) -> list[str]:
        """What makes these numbers others than the published ones, in words."""
        return [*(f"not comparable: {change}" for change in self.changes), *self.marks]
