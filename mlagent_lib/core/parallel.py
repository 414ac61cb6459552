"""Waiting for several answers at once: a map over threads that an interrupt does not have to wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_threads(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
    """Return ``function(item)`` for each item, in order, with up to ``workers`` of them under way at once.

    For work that waits (requests to a server), not for work that computes. After the first failure no further
    item is begun, and what is under way ends in the background: its threads hold up neither the caller nor
    the end of the program.

    Args:
        workers: 1 or more; 1 calls it in the caller's own thread.

    Raises:
        Exception: What the first failing call raised.

    Example:
        >>> map_threads(len, ["a", "bcd", ""], 2)
        [1, 3, 0]
    """
    if workers < 2 or len(items) < 2:
        return [function(item) for item in items]
    todo, done, stopped = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event()
    for entry in enumerate(items):
        todo.put(entry)

    def work() -> None:
        while not stopped.is_set():
            try:
                number, item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, function(item), None))
            except BaseException as error:  # noqa: BLE001 (it is raised again in the caller's thread)
                stopped.set()
                done.put((number, None, error))

    for _ in range(min(workers, len(items))):
        threading.Thread(target=work, name="mlagent-map", daemon=True).start()
    results = [None] * len(items)
    try:
        for _ in items:
            number, result, error = done.get()
            if error is not None:
                raise error
            results[number] = result
    finally:
        stopped.set()
    return results
