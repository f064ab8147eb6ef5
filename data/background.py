"""Work ahead of a loop, in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")
_END = object()


def ahead(items: Iterator[T], num: int = 2) -> Iterator[T]:
    """The same items; while one is used, a thread makes up to ``num - 1`` more.

    What making one raises is raised where it would be used.
    """
    with ThreadPoolExecutor(1, "compactrec-ahead") as pool:
        coming: deque[Future[T | object]] = deque()
        while True:
            while len(coming) < num:
                coming.append(pool.submit(next, items, _END))
            item = coming.popleft().result()
            if item is _END:
                return
            yield item  # type: ignore[misc]  # whatever is not the end is an item
