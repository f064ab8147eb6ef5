"""Hashing trick (Weinberger et al., ICML 2009, arXiv 0902.2206).

``e(x) = E[h(x)]`` with ``E (M, D)``; with ``sign`` it is ``s(x) * E[h(x)]``, ``s(x)`` in {-1, +1},
which makes inner products unbiased. ``h`` is the salted 64-bit mix, or ``x mod M`` (what most CTR
code uses: a perfect hash at M >= n, and perfectly regular below, so its quality depends on how the
ids are numbered). Bags pool exactly. Cost: ``4 * M * D`` bytes.
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from compactrec.embeddings.combines import Subtract
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays, Lowered, Output, Slot, table_name
from compactrec.embeddings.feature import Feature, part_key
from compactrec.embeddings.hashing import name_salt
from compactrec.embeddings.init import Init, dlrm_init, first_init
from compactrec.embeddings.packing import Block, num_lanes, packed
from compactrec.embeddings.registry import Assignments, Method, SizingTask, register_method
from compactrec.embeddings.rewrites import Digit, IdMap, SaltedHash, Signs, Stream
from compactrec.embeddings.sizing import largest, proportional_rows

__all__ = ["HashConfig", "lower_hash"]


class HashConfig(MethodConfig):
    """A table of ``num_rows`` rows behind a hash. A group shares the table *and* the hash."""

    method: ClassVar[str] = "hash"

    num_rows: int = Field(ge=1)
    """Rows M of the table."""
    hash: Literal["mix", "mod"] = "mix"
    """``mix``: salted 64-bit hash. ``mod``: ``x mod M``."""
    sign: bool = False
    """Multiply each row by a random sign of the id."""
    seed: int = 0
    """Changes the salts; they are derived from this and the first feature's name."""
    init: Init | None = None
    """Initial weights; None is U(+-sqrt(1/M))."""


def lower_hash(config: HashConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """One table for the group."""
    name = features[0].name
    id_map: IdMap = SaltedHash(name_salt(name, seed=config.seed), config.num_rows)
    if config.hash == "mod":
        id_map = Digit(1, config.num_rows)
    dim = features[0].dim
    if any(f.dim != dim for f in features):
        raise ValueError(
            f"hash: features that share a table must have equal dim, got "
            f"{ {f.name: f.dim for f in features} }; put them in two groups"
        )
    init = config.init or first_init(features, dlrm_init(config.num_rows))
    block = Block(table_name(features, "id"), config.num_rows, dim, init)
    if not config.sign:
        return packed(features, "id", [block], maps=lambda _: id_map)
    return _signed(features, block, id_map, name_salt(f"{name}__sign", seed=config.seed))


def _signed(features: tuple[Feature, ...], block: Block, id_map: IdMap, salt: int) -> Lowered:
    if num_lanes(block.dim) > 1:
        raise ValueError(
            f"hash: sign needs a width that is a multiple of 4, got {block.dim} for feature "
            f"{features[0].name!r}"
        )
    streams, outputs = [], []
    for f in features:
        parts = (part_key(f.name, "plus"), part_key(f.name, "minus"))
        streams.append(Stream(f.name, parts, (block.table,) * 2, id_map, Signs(salt)))
        slots = tuple(Slot((part,), f.dim) for part in parts)
        outputs.append(Output(f.name, f.name, f.dim, (slots,), Subtract()))
    return Lowered(tuple(streams), (block.physical,), tuple(outputs))


class HashOptions(BaseModel):
    """What a person may choose at a budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hash: Literal["mix", "mod"] = "mix"
    sign: bool = False
    seed: int = 0


def _from_budget(task: SizingTask) -> Assignments:
    """Rows in proportion to vocabularies; a feature never gets more rows than ids.

    An open vocabulary counts as the largest known one, or without any as all that fits.
    """
    o: HashOptions = task.options
    known = [f.num_ids for f in task.features if f.num_ids is not None]
    unknown = max(known, default=max(1, task.budget_bytes // (4 * task.features[0].dim)))
    vocabularies = [f.num_ids or unknown for f in task.features]

    def assign(total_rows: int) -> Assignments:
        rows = proportional_rows(vocabularies, total_rows)
        return Assignments(
            tuple(
                ((f,), HashConfig(num_rows=m, hash=o.hash, sign=o.sign, seed=o.seed))
                for f, m in zip(task.features, rows, strict=True)
            ),
            {},
        )

    return largest(assign, 1, sum(vocabularies), task.budget_bytes)


register_method(
    Method(
        config=HashConfig,
        lower=lower_hash,
        from_budget=_from_budget,
        options=HashOptions,
        title="Hashing trick",
        paper="Weinberger et al., ICML 2009, arXiv 0902.2206",
        formula="e(x) = E[h(x)],  E (M, D)",
        baseline=True,
    )
)
