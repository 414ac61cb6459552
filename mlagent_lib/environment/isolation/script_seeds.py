"""Where the luck of a script comes from: always the same where it sets no seed, and other luck on request.

`settle` makes a script without a seed repeatable: all that asks the system for random bytes (``random``,
``default_rng()``, ``SeedSequence()`` and ``RandomState()`` of NumPy, ``uuid``, ``secrets``, ``os.urandom``)
gets the same bytes in each run, and others in each process that it forks; PyTorch starts from the same seed.
Not repeatable: new programs that a script starts (spawned workers too), compiled code that asks the system
itself (``torch.seed()``), the clock, the order in which threads and processes finish, and addresses in
memory. Nor is anything at tier T0.

A gain that hangs on ``random_state=37`` is luck, not engineering. `shift` changes what every seed means
inside one run, without touching the script: ``random``, ``numpy.random`` and what draws from them
(scikit-learn, SciPy, pandas). Not covered: a bit generator that a script seeds by hand (``PCG64(37)``),
PyTorch, and code that computes its own random numbers; there the rerun gives the same score again, which says
nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import sys

from .script_workers import after_import

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

    ``by`` is which luck, 1 or more; 0 changes nothing.
    """
    if not by:
        return
    original = random.Random.seed
    random.Random.seed = lambda self, a=None, version=2: original(self, shifted(a, by), version)
    random.seed = random._inst.seed
    if "numpy" in sys.modules:
        _shift_numpy(by)


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


class _Bytes:
    """What the system's random bytes are replaced by, from a key of this process."""

    def __init__(self, key: bytes):
        self.start(key)

    def start(self, key: bytes) -> None:
        self._key, self._numbers, self._next = key, itertools.count(), b""

    def draw(self, size: int, flags: int = 0) -> bytes:
        return hashlib.shake_256(b"%s %d" % (self._key, next(self._numbers))).digest(size)

    def before_fork(self) -> None:
        self._next = self.draw(16)

    def after_fork(self) -> None:
        self.start(self._next)
        random.seed()


def settle(by: int) -> None:
    """Make what gets no seed repeatable in this process, with the luck ``by``; cannot be undone either."""
    source = _Bytes(b"%d" % by)
    os.urandom = os.getrandom = random._urandom = source.draw  # NumPy and secrets ask the last of them
    seed = random.Random.seed

    def settled(self, a=None, version=2):
        seed(self, *((source.draw(32), 2) if a is None else (a, version)))

    random.Random.seed = settled
    random.seed = random._inst.seed
    os.register_at_fork(before=source.before_fork, after_in_child=source.after_fork)
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    after_import({"torch": lambda torch: torch.default_generator.manual_seed(shifted(0, by))})
