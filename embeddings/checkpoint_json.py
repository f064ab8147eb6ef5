"""What a person gives to a checkpoint as JSON: made so, or refused by the key that is not."""

from __future__ import annotations

import json
import math
from typing import Any

from compactrec.embeddings.checkpoint_index import canonical

__all__ = ["as_json"]


def as_json(value: object, name: str) -> dict[str, Any]:
    """A dict as it comes back from JSON; ``name`` is what errors call it.

    Raises:
        TypeError: it is no dict, or something in it has no JSON form; the error says where, and
            what to give.
        ValueError: a number in it is NaN or infinite.
    """
    _check(value, name)
    if not isinstance(value, dict):
        raise TypeError(
            f"{name} must be a dict of JSON values by name, got {value!r}; write {{'name': value}}"
            ", or {} where there is nothing"
        )
    found: dict[str, Any] = json.loads(canonical(value))
    return found


def _check(value: object, name: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if key is not None and not isinstance(key, (str, int, float)):
                raise TypeError(f"{name} has the key {key!r}; keys of JSON are text: give str(key)")
            _check(item, f"{name}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check(item, f"{name}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"{name} is {value}, which is not JSON compliant; give None, or leave it out"
        )
    elif value is not None and not isinstance(value, (str, int, float)):
        raise TypeError(
            f"{name} is of type {type(value).__name__}, and takes JSON values alone: text, "
            f"numbers, lists and dicts of them; give {_advice(value, name)}"
        )


def _advice(value: object, name: str) -> str:
    ways = {
        "to_json": f"{name}.to_json()",
        "to_dict": f"{name}.to_dict()",
        "model_dump": f"{name}.model_dump(mode='json')",
        "tolist": f"{name}.tolist() where it is small, and save it with the model where it is not",
    }
    return next((way for method, way in ways.items() if hasattr(value, method)), "str() of it")
