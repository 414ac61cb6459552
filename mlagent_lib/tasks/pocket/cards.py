"""The 19 pocket tasks (``cards.yaml``): one for each task of the paper (section 5), in its table's order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlagent_lib.core.files import read_yaml
from mlagent_lib.tasks.spec import TaskSpec


@dataclass(frozen=True, kw_only=True)
class Card(TaskSpec):
    """What makes one pocket task.

    Attributes:
        source: ``module.function`` below `mlagent_lib.tasks.pocket` that makes the rows.
    """

    source: str


_TEXTS = read_yaml(Path(__file__).with_suffix(".yaml"))
CARDS = tuple(
    Card(**card | {"rows": tuple(card["rows"]), "facts": tuple(card["facts"])}) for card in _TEXTS["cards"]
)
# The short facts that a card may state: one vocabulary for cards, generated tasks and the corpus.
COUNTS = dict(zip((2, 3, 4, 5, 6, 8, 10, 12, 20, 30), _TEXTS["facts"]["counts"], strict=True))
_COUNTED = [f"{count} {what}" for what in ("classes", "outputs") for count in COUNTS.values()]
# Which block a fact says something about: what fits there is for a reader to learn.
DECIDES = {fact: axis for axis, facts in _TEXTS["facts"]["decides"].items() for fact in facts}
FACTS = (*_COUNTED, *DECIDES, *_TEXTS["facts"]["others"])


def card_of(name: str) -> Card:
    """Return the card of this name.

    Raises:
        KeyError: There is none.

    Example:
        >>> card_of("pocket-digits").metric
        'accuracy'
    """
    return {found.name: found for found in CARDS}[name]
