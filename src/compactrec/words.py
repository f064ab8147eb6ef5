"""What is wrong with a file or with options that a person wrote, in words."""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

__all__ = ["nearest", "problems", "read_toml", "sentence", "validated"]

M = TypeVar("M", bound="BaseModel")
_BRANCH = re.compile(r"(literal|function-[a-z]+)\[")


def _no_hint(name: str) -> str:
    return ""


def read_toml(path: Path, what: str, advice: str) -> dict[str, Any]:
    """The content of a TOML file; ``ValueError`` in words. ``what`` names the file's part:
    ``--config``."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{what} {path} cannot be read ({error.strerror}); {advice}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} {path} is not valid TOML: {error}") from error


def validated(
    model: type[M],
    given: Mapping[str, Any],
    where: Callable[[str], tuple[str, str]] = lambda field: ("", field),
    also: Collection[str] = (),
    hint: Callable[[str], str] = _no_hint,
) -> M:
    """``given`` as a ``model``; ``ValueError`` names all that is wrong.

    ``where`` says of a field in which file it was given, ``""`` for none, and how it is called
    there; ``also`` are names that are allowed besides; ``hint`` as of :func:`problems`.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise ValueError(sentence(problems(error, model, also, hint), where)) from error


def sentence(told: Iterable[tuple[str, str]], where: Callable[[str], tuple[str, str]]) -> str:
    """All of :func:`problems`, those of a file behind its name; ``where`` as of `validated`."""
    found: dict[str, list[str]] = {"": []}
    for field, text in told:
        file, name = where(field) if field else ("", "")
        found.setdefault(file, []).append(f"{name}: {text}" if name else text)
    texts = {file: "; ".join(of) for file, of in found.items() if of}
    return "; ".join(f"{file}: {of}" if file else of for file, of in texts.items())


def problems(
    error: ValidationError,
    model: type[BaseModel] | None = None,
    also: Collection[str] = (),
    hint: Callable[[str], str] = _no_hint,
) -> Iterator[tuple[str, str]]:
    """The field of every problem, ``""`` where it is about several, and what is wrong.

    Unknown names come first; with ``model`` they are told what ``hint`` knows of them, else the
    nearest that there are, or all.
    """
    for problem in sorted(_told(error), key=lambda one: one["type"] != "extra_forbidden"):
        place = _without_branches(problem["loc"])
        field = ".".join(str(part) for part in place)
        if problem["type"] == "extra_forbidden":
            text = f"there is no such field, got {problem['input']!r}"
            if model is not None:
                known = [*_names_at(model, place), *(also if len(place) == 1 else ())]
                name = str(place[-1])
                there = f"there are {', '.join(known) or 'none'}"
                text = f"there is no such field; {hint(name) or nearest(name, known) or there}"
            yield field, text
            continue
        whole = isinstance(problem["input"], dict)  # all of them: the message says which
        got = "" if whole else f", got {problem['input']!r}"
        message = problem["msg"].removeprefix("Value error, ")
        yield field, message.replace("valid tuple", "valid list") + got


def _told(error: ValidationError) -> list[Any]:
    """The problems, without "should be 'planner'" where a table of fields was given: what is wrong
    in that is told."""
    found = error.errors()
    return [p for p in found if not (isinstance(p["input"], Mapping) and _ends_in_branch(p["loc"]))]


def _ends_in_branch(place: tuple[int | str, ...]) -> bool:
    return bool(place) and _BRANCH.match(str(place[-1])) is not None


def _without_branches(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A place as it was written: pydantic puts the kinds in it that a union is made of."""
    return tuple(p for p in place if not _BRANCH.match(str(p)))


def nearest(name: str, known: Collection[str]) -> str:
    """``nearest is 'epochs'``; ``""`` where none is near."""
    near = [repr(found) for found in difflib.get_close_matches(name, known)]
    return f"nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}" if near else ""


def _names_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The fields that there are where the last part of ``place`` is none."""
    here = [model]
    for part in place[:-1]:
        inside = [m for one in here for m in _models(one.model_fields.get(str(part)))]
        here = inside or here  # a place in a list, a key of a dict, a branch of a union
    return list(dict.fromkeys(name for one in here for name in one.model_fields))


def _models(field: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type is made of."""
    from pydantic import BaseModel

    kinds = [] if field is None else [field.annotation]
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        kinds += typing.get_args(kind)
