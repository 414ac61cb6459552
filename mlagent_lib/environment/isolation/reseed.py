"""Other seeds for a script that sets its own: the same script again, with different luck.

A gain that hangs on ``random_state=37`` is luck, not engineering. `shift` changes what every seed means
inside one run, without touching the script: ``random``, ``numpy.random`` and what draws from them
(scikit-learn, SciPy, pandas). Not covered: a bit generator that a script seeds by hand (``PCG64(37)``) and
code that computes its own random numbers; there the rerun gives the same score again, which says nothing.
"""

from __future__ import annotations

import random
import sys

_STRIDE = 1_000_003  # a prime: neighbouring seeds of a script never meet those of its rerun
_RANGE = 1 << 32  # numpy takes seeds below it


def shifted(seed: object, by: int) -> object:
    """Return the seed to use in place of ``seed``: whole numbers are moved, everything else stays.

    Example:
        >>> shifted(0, 2), shifted(37, 2), shifted(None, 2)
        (2000006, 2000043, None)
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        return seed
    try:
        return (seed.__index__() + by * _STRIDE) % _RANGE
    except TypeError:  # an array has the method, but is no single number
        return seed


def shift(by: int) -> None:
    """Move every whole-number seed of this process from now on. Meant for a forked run; cannot be undone.

    Args:
        by: Which luck, 1 or more; 0 changes nothing.
    """
    if not by:
        return
    _shift_random(by)
    if "numpy" in sys.modules:
        _shift_numpy(by)


def _shift_random(by: int) -> None:
    class Random(random.Random):
        def seed(self, a=None, version=2):
            super().seed(shifted(a, by), version)

    original = random.seed
    random.seed = lambda a=None, version=2: original(shifted(a, by), version)
    random.Random = Random


def _shift_numpy(by: int) -> None:
    import numpy

    original, seed, default_rng = numpy.random.RandomState, numpy.random.seed, numpy.random.default_rng

    class _Kind(type(original)):
        def __instancecheck__(cls, thing):
            return isinstance(thing, original)  # numpy's own global state was made before

    class RandomState(original, metaclass=_Kind):
        def __init__(self, seed=None):
            super().__init__(shifted(seed, by))

    numpy.random.RandomState = RandomState
    numpy.random.seed = lambda value=None: seed(shifted(value, by))
    numpy.random.default_rng = lambda value=None: default_rng(shifted(value, by))
