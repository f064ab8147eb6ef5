"""Tied features: they read through another feature's maps and combine, so their vectors are equal.

Features of one group share tables, but not always rows (``unified`` salts every feature). A tie is
stronger: the same id has the same vector, whatever the method.
"""

from collections.abc import Mapping
from dataclasses import replace

from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays, Lowered, Output, Slot
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.registry import lower
from compactrec.embeddings.rewrites import Stream

__all__ = ["check_ties", "lower_tied"]


def check_ties(features: tuple[str, ...], ties: Mapping[str, str]) -> None:
    """Raise unless every tie is between two features of the group, and no chain of ties."""
    for name, other in ties.items():
        if name not in features or other not in features or other in ties:
            raise ValueError(
                f"feature {name!r} cannot be tied to {other!r}: both must be in the group "
                f"({', '.join(features)}), and the second not tied itself"
            )


def lower_tied(
    config: MethodConfig,
    features: tuple[Feature, ...],
    ties: Mapping[str, str],
    arrays: Arrays,
) -> Lowered:
    """Lower a group; ``ties`` maps features to those whose vectors they have.

    Costs no table; the integer state is there once per feature. Raises ``ValueError`` where tied
    features differ in ``num_ids``, ``dim`` or ``max_bag``.
    """
    lowered = lower(config, tuple(f for f in features if f.name not in ties), arrays)
    if not ties:
        return lowered
    by_name = {feature.name: feature for feature in features}
    for name, other in ties.items():
        ours, theirs = _shape(by_name[name]), _shape(by_name[other])
        if ours != theirs:
            raise ValueError(
                f"tied features must have equal num_ids, dim and max_bag, but {name!r} has {ours} "
                f"and {other!r} has {theirs}"
            )
    streams = [
        _stream(stream, name, other)
        for name, other in ties.items()
        for stream in lowered.streams
        if stream.feature == other
    ]
    outputs = [
        _output(output, name, other)
        for name, other in ties.items()
        for output in lowered.outputs
        if output.feature == other
    ]
    return Lowered((*lowered.streams, *streams), lowered.tables, (*lowered.outputs, *outputs))


def _shape(feature: Feature) -> tuple[int | None, int, int]:
    return feature.num_ids, feature.dim, feature.max_bag


def _renamed(key: str, name: str, other: str) -> str:
    return name + key.removeprefix(other)


def _stream(stream: Stream, name: str, other: str) -> Stream:
    parts = tuple(_renamed(part, name, other) for part in stream.parts)
    return replace(stream, feature=name, parts=parts)


def _output(output: Output, name: str, other: str) -> Output:
    """The same combine over the parts of another feature."""
    inputs = tuple(
        tuple(
            Slot(tuple(_renamed(p, name, other) for p in slot.parts), slot.dim, slot.whole)
            for slot in slots
        )
        for slots in output.inputs
    )
    return replace(output, key=_renamed(output.key, name, other), feature=name, inputs=inputs)
