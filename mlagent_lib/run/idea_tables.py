"""What notebook 01 shows of ideas: how many there are, where they lie, how different a selection is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mlagent_lib.agents.embeddings import embed, pairwise_distances, project, select_farthest_average
from mlagent_lib.agents.ideas import candidate_ideas, select_v2
from mlagent_lib.core.seeding import rng
from mlagent_lib.results.steps import spread_table
from mlagent_lib.run.lab import Lab, chosen_ideas
from mlagent_lib.tasks.task import Task


def idea_counts(lab: Lab) -> pd.DataFrame:
    """Return how many candidate ideas each task of the collection has, by axis, and how many are kept."""
    table = []
    for task in lab.tasks(lab.profile.collect.tasks):
        axes = pd.Series([idea.axis for idea in candidate_ideas(task)]).value_counts()
        row = {
            "task": task.name,
            "candidates": int(axes.sum()),
            **{str(k): int(v) for k, v in axes.sort_index().items()},
        }
        table.append({**row, "kept": len(_flat(chosen_ideas(lab, task)))})
    return pd.DataFrame(table)


def _flat(pool: Sequence | Mapping) -> list:
    return [idea for own in pool.values() for idea in own] if isinstance(pool, Mapping) else list(pool)


def idea_map_table(lab: Lab, task: Task) -> pd.DataFrame:
    """Return the table of the figure ``idea_map``: where the candidates lie, and the spread of selections.

    The rings are the ideas that this run uses. The spread compares selections of one size, that of version 2.
    """
    ideas = candidate_ideas(task)
    vectors = embed([idea.text for idea in ideas])
    used = {idea.key for idea in _flat(chosen_ideas(lab, task))}
    places = pd.DataFrame(
        [
            {
                "key": idea.key,
                "axis": idea.axis,
                "x": x,
                "y": y,
                "kind": "idea",
                "selected": int(idea.key in used),
            }
            for idea, (x, y) in zip(ideas, project(vectors)[0], strict=True)
        ]
    )
    chosen = _equal_choices(lab, task, ideas, vectors)
    spread = spread_table(pairwise_distances(vectors), chosen, root=lab.seed).assign(kind="spread")
    return pd.concat([places, spread], ignore_index=True)


def _equal_choices(lab: Lab, task: Task, ideas: Sequence, vectors: np.ndarray) -> dict[str, list[int]]:
    """Return the indices of both versions' selections, as many for each."""
    index = {idea.key: place for place, idea in enumerate(ideas)}
    second = select_v2(ideas, vectors, rng(lab.seed, "ideas", task.name), lab.profile.collect.ideas_k)
    second = [index[idea.key] for idea in _flat(second)]
    return {
        "v1: farthest average": list(select_farthest_average(vectors, len(second))),
        "v2: per axis": second,
    }


def family_table(lab: Lab, task: Task, draws: int = 200) -> pd.DataFrame:
    """Return how many different *kinds* of ideas a selection holds: families such as ``svm`` or ``bagging``.

    Columns: selection, ideas, families (mean over the draws for ``random``).
    """
    ideas = candidate_ideas(task)
    vectors = embed([idea.text for idea in ideas])
    families = np.array(["/".join(idea.key.split("/")[:2]) for idea in ideas])
    chosen = _equal_choices(lab, task, ideas, vectors)
    size = len(chosen["v2: per axis"])
    stream = rng(lab.seed, "families", task.name)
    drawn = [len(set(families[stream.choice(len(ideas), size, replace=False)])) for _ in range(draws)]
    table = [{"selection": "random", "ideas": size, "families": float(np.mean(drawn))}]
    table += [{"selection": k, "ideas": size, "families": len(set(families[v]))} for k, v in chosen.items()]
    return pd.DataFrame(table)
