"""Search at equal cost: who starts where, what is handed in, and that the budget is one of executions."""

from __future__ import annotations

import re

import pytest
from tiny_task import (
    NAME,
    FakeRunner,
    edit,
    final,
    make_tools,
    neighbours,
    reply,
    result,
    submission,
)

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.agents.search import DRAFTS, IDLE, METHODS, Method, _Search, search
from mlagent_lib.environment.workspace import State
from mlagent_lib.results.report_scores import report_score

TRAJECTORIES, TREE = Method("trajectories", "full", False), Method("tree", "full", True)
BROKEN = edit("Switch to Ridge and set alpha to 1.")  # the tiny runner knows no other model: an error
LOOK = reply("List Files", dir_path=".")


class Script:
    """Says replies in order, and notes from which script and step each was asked."""

    def __init__(self, *replies: str):
        self.replies, self.origins, self.seeds = list(replies), [], []

    def __call__(self, conversations, seed):
        self.seeds.append(seed)
        for messages in conversations:
            text = messages[-1]["content"]
            n = int(re.search(r"n_neighbors=(\d+)", text)[1])
            self.origins.append((n, int(re.search(r"Step (\d+) of", text)[1])))
        return [self.replies.pop(0) for _ in conversations]


def look_for(task, tmp_path, method, script, *, budget, max_steps=6, runner=None, repeats=1):
    tools = make_tools(tmp_path, runner)
    rows = search(
        method, [(task, repeat) for repeat in range(repeats)], script, tools, budget=budget, seed=0,
        prompter=Prompter("pocket", max_steps),
    )  # fmt: skip
    for point in (point for row in rows for point in row["points"]):
        point["report"] = report_score(task, tools.cache.archive, point["submission"])
    return rows


def points(row) -> list[tuple]:
    return [(p["execution"], p["visible"], p["feedback"], p["report"]) for p in row["points"]]


def test_a_tree_drafts_first_and_then_improves_what_looks_best(task, tmp_path):
    script = Script(
        *(neighbours(n) for n in (32, 24, 8, 16, 48)), neighbours(12), neighbours(4), neighbours(2)
    )
    (row,) = look_for(task, tmp_path, TREE, script, budget=8)
    assert DRAFTS == 5 and script.replies == []
    assert script.origins[:5] == [(40, 1)] * 5  # drafts start from the starter, whatever the others came to
    # 8 neighbours look best (1.0), and still do after 12 (1.5); then 4 do (0.5)
    assert script.origins[5:] == [(8, 2), (8, 2), (4, 3)]
    best = [32, 24, 8, 8, 8, 8, 4, 2]
    assert points(row) == [(i, n / 8, n / 8, n / 4) for i, n in enumerate(best, 1)]
    assert (row["executions"], row["actions"], row["method"], row["policy"]) == (8, 8, "tree", "full")
    assert (row["task"], row["split"], row["repeat"]) == (NAME, "held-in", 0)


def test_trajectories_go_on_from_where_they_are_and_start_again_at_their_end(task, tmp_path):
    script = Script(*(neighbours(n) for n in (16, 48, 24, 8, 32)))
    (row,) = look_for(task, tmp_path, TRAJECTORIES, script, budget=5, max_steps=2)
    assert script.origins == [(40, 1), (16, 2), (40, 1), (24, 2), (40, 1)]
    best = [16, 16, 16, 8, 8]  # what looked best by then, not what came last
    assert points(row) == [(i, n / 8, n / 8, n / 4) for i, n in enumerate(best, 1)]
    script = Script(neighbours(16), final(), neighbours(24), neighbours(8))
    look_for(task, tmp_path, TRAJECTORIES, script, budget=3)
    assert script.origins == [(40, 1), (16, 2), (40, 1), (24, 2)]  # a final answer ends a trajectory


def test_the_budget_counts_executions_known_ones_too_and_other_actions_are_free(task, tmp_path):
    script = Script(neighbours(8), LOOK, "nonsense", neighbours(8), edit("Make it good."), neighbours(8))
    (row,) = look_for(task, tmp_path, TREE, script, budget=3)
    # three times the same experiment, which is run once: the second and the third are known, and counted
    assert (row["executions"], row["actions"], len(row["points"])) == (3, 6, 3)
    assert {p["report"] for p in row["points"]} == {2.0}


def test_free_actions_are_bounded(task, tmp_path):
    script = Script(*["nonsense"] * 100)
    (row,) = look_for(task, tmp_path, TREE, script, budget=4)
    assert (row["executions"], row["actions"], row["points"]) == (0, IDLE * 4, [])
    assert len(script.replies) == 100 - IDLE * 4


def test_a_broken_script_costs_an_execution_and_is_never_the_best(task, tmp_path):
    script = Script(BROKEN, *[neighbours(48)] * 4, neighbours(16))
    (row,) = look_for(task, tmp_path, TREE, script, budget=6)
    # nothing looks better than the starter (5.0) until the end, so it is what is improved and handed in
    assert script.origins == [(40, 1)] * 6
    assert points(row) == [(i, 5.0, 5.0, 10.0) for i in range(1, 6)] + [(6, 2.0, 2.0, 4.0)]


def test_what_is_handed_in_is_what_looked_best_not_what_was_best(task, tmp_path):
    def flattering(request):
        if b"n_neighbors=48)" in request.files["train.py"]:  # overfits: 6.0 on feedback, 12.0 on report
            seen = "validation mae: 0.010\n"
            return result(output=seen, collected={"submission.csv": submission(48)})
        return None

    script = Script(
        neighbours(48), neighbours(8), neighbours(4), neighbours(2), neighbours(16), neighbours(1)
    )
    (row,) = look_for(task, tmp_path, TREE, script, budget=6, runner=FakeRunner(flattering))
    assert points(row) == [(i, 0.01, 6.0, 12.0) for i in range(1, 7)]
    assert script.origins[5] == (48, 2)


def test_a_node_at_the_end_of_its_way_is_handed_in_but_not_improved(task, tmp_path):
    script = Script(*(neighbours(n) for n in (32, 24, 16, 12, 8, 4, 2)))
    (row,) = look_for(task, tmp_path, TREE, script, budget=7, max_steps=1)
    assert script.origins == [(40, 1)] * 7
    assert [p["report"] for p in row["points"]] == [8.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.5]


def test_searches_side_by_side_have_their_own_nodes_and_ends(task, tmp_path):
    # two searches, replies in turn; the second looks around once and needs a turn more
    script = Script(neighbours(16), LOOK, neighbours(8), neighbours(32), neighbours(24))
    first, second = look_for(task, tmp_path, TRAJECTORIES, script, budget=2, repeats=2)
    assert (first["repeat"], second["repeat"]) == (0, 1)
    assert [p["report"] for p in first["points"]] == [4.0, 2.0]
    assert [p["report"] for p in second["points"]] == [8.0, 6.0]
    assert (first["actions"], second["actions"]) == (2, 3)
    assert script.origins == [(40, 1), (40, 1), (16, 2), (40, 2), (32, 3)]
    assert len(set(script.seeds)) == 3  # each turn has a stream of its own


@pytest.mark.parametrize(("higher", "wanted"), [(True, 0.9), (False, 0.5)])
def test_which_of_two_looks_better_follows_the_metric_and_the_earlier_wins_a_tie(task, higher, wanted):
    class Directed:
        greater_is_better = higher

    def node(visible, step):
        return State("t", "d" * 64, {}, visible=visible, step=step)

    start = node(0.7, 0)
    found = _Search(Directed(), 0, start, True, 6)
    assert found.best is start
    found.nodes += [node(None, 1), node(0.5, 2), node(0.9, 3), node(0.9, 4), node(0.5, 5)]
    assert found.best.visible == wanted and found.best.step == (3 if higher else 2)


def test_the_methods_are_two_policies_by_two_ways():
    assert len({method.name for method in METHODS}) == 4
    assert {(method.policy, method.tree) for method in METHODS} == {
        (policy, tree) for policy in ("full", "sft") for tree in (True, False)
    }
