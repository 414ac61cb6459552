"""What MLAgentBench's folders do not state themselves: metric, direction and best known score, with sources.

The metric and its direction are those of each folder's own ``eval.py`` (snap-stanford/MLAgentBench, commit
5d71205). A best known score is there only where a source could be named; elsewhere the caller states one. A
folder is recognised by its name, so a caller who gives other values is always right.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownTask:
    """One task of MLAgentBench.

    Attributes:
        metric: What its ``eval.py`` computes.
        greater_is_better: The direction of that.
        modality: As in `Task`.
        best: Best known score in the unit of the metric; None where no source is known.
        source: Of the best known score.
        warning: What a reader of a score has to know; "" for nothing special.
    """

    metric: str
    greater_is_better: bool
    modality: str
    best: float | None = None
    source: str = ""
    warning: str = ""


_OPEN_TEST_SET = "the test labels are public and can be downloaded by a script that has a network"

KNOWN = {
    "cifar10": KnownTask(
        "accuracy", True, "image", 0.995,
        "ViT-H/14 pretrained on JFT-300M, arXiv 2010.11929, Table 2: 99.50 %", _OPEN_TEST_SET,
    ),
    "imdb": KnownTask(
        "accuracy", True, "text", 0.9621, "XLNet, arXiv 1906.08237: 96.21 %", _OPEN_TEST_SET
    ),
    "ogbn-arxiv": KnownTask(
        "accuracy", True, "graph", 0.7803,
        "SimTeG+TAPE+RevGAT on the OGB leaderboard, arXiv 2308.02565: 78.03 %", _OPEN_TEST_SET,
    ),
    "house-price": KnownTask(
        "mae", False, "tabular", 17373.0,
        "arXiv 2505.23723 v1, figure on the size of the RL data: best@128 of an agent with 10k states",
    ),
    "feedback": KnownTask(
        "mcrmse", False, "text", 0.5777, "arXiv 2505.23723 v1, Table 1: best@8 of ML-Agent",
        "eval.py imports env/train.py: the starter's own copy, never the agent's",
    ),
    "spaceship-titanic": KnownTask("accuracy", True, "tabular"),
    "amp-parkinsons-disease-progression-prediction": KnownTask("smape+1", False, "tabular"),
    "identify-contrails": KnownTask("dice", True, "image"),
    "fathomnet": KnownTask("map@20 and auc of out-of-sample detection", True, "image"),
    "babylm": KnownTask(
        "perplexity", False, "text",
        warning="eval.py loads the model that the script saved: this kit does not grade such submissions",
    ),
    "CLRS": KnownTask(
        "score of clrs.evaluate", True, "graph",
        warning="eval.py unpickles a checkpoint of the script: this kit does not grade such submissions",
    ),
    "vectorization": KnownTask(
        "seconds", False, "other",
        warning="the score is the time that the script itself writes into submission.csv: it can be made up",
    ),
}  # fmt: skip
