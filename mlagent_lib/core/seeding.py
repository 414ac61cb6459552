"""Named random streams: every draw of a run flows from one root seed, whatever the order of the work."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(root: int, *names: str | int) -> int:
    """Return the 32-bit seed of the stream called ``names`` under ``root``.

    Adding a task or a worker does not move the draws of the others, and the value does not depend on
    ``PYTHONHASHSEED``.

    Args:
        root: The seed of the run, any integer.
        names: What the stream is for, from coarse to fine, e.g. ``("rollout", "digits", 3)``.

    Example:
        >>> derive_seed(0, "expert", "digits") == derive_seed(0, "expert", "digits")
        True
        >>> derive_seed(0, "a", "b") == derive_seed(0, "ab")
        False
    """
    key = "\x1f".join([str(root), *map(str, names)]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big")


def rng(root: int, *names: str | int) -> np.random.Generator:
    """Return a fresh generator for the stream called ``names`` under ``root`` (see `derive_seed`).

    Example:
        >>> int(rng(0, "demo").integers(1000)) == int(rng(0, "demo").integers(1000))
        True
    """
    return np.random.default_rng(derive_seed(root, *names))
