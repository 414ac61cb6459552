"""Whether a policy reads: mutual information by hand, its chance, and what a trajectory's actions are."""

import math

import numpy as np
import pandas as pd
import pytest
from synthetic_run import SCALES, actions, rows, trajectory
from tiny_task import final, make_tools, neighbours, reply, write_task

from mlagent_lib.agents.policies import FixedEdits, Turn
from mlagent_lib.agents.replies import edit_reply, trend_said
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.workspace import State
from mlagent_lib.results.first_screen import against, alarms
from mlagent_lib.results.reading import (
    action_table,
    gap_by_step_table,
    gap_paths,
    mutual_information,
    reading_sentence,
    reading_table,
    state_information,
    task_information,
    wording_table,
)
from mlagent_lib.tasks.pocket.fixed import POLICIES, best_sequence, chosen, fixed_edits
from mlagent_lib.tasks.registry import find_task, list_tasks


def edits(choose, tasks: int = 4, runs: int = 4, steps: int = 6) -> pd.DataFrame:
    """Return the edits of a policy: ``choose`` takes task, trajectory, step and state (one of two)."""
    table = []
    for task in range(tasks):
        for run in range(runs):
            for step in range(steps):
                state = (run + step) % 2
                family = choose(task, run, step, state)
                table.append((f"task{task}", str(run), step, str(state), str(family)))
    return pd.DataFrame(table, columns=["task", "trajectory", "step", "state", "family"])


def test_mutual_information_by_hand():
    """Three of four pairs agree: 2 · 3/8 · ln(3/2) + 2 · 1/8 · ln(1/2)."""
    one, other = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 0]
    assert mutual_information(one, other) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert mutual_information(other, one) == pytest.approx(mutual_information(one, other))


def test_a_constant_policy_tells_nothing_and_neither_does_chance():
    said = edits(lambda *_: "trees")
    assert task_information(said, rng(0, "a")) == [0, 0, 0] == state_information(said, rng(0, "b"))


def test_a_perfect_reader_of_tasks_tells_the_logarithm_of_their_number():
    found, chance, high = task_information(edits(lambda task, *_: task), rng(0, "a"))
    assert found == pytest.approx(math.log(4)) and chance < high < found


def test_a_perfect_reader_of_states_tells_them_given_the_task():
    found, chance, high = state_information(edits(lambda task, run, step, state: state), rng(0, "a"))
    assert found == pytest.approx(math.log(2)) and chance < high < found


def test_a_policy_that_counts_its_steps_tells_no_more_than_chance():
    """Where all trajectories of a step are in one state, a fixed sequence seems to read; so does chance."""
    said = edits(lambda task, run, step, state: step)
    said["state"] = said["step"].astype(str)
    found, chance, high = state_information(said, rng(0, "a"))
    assert found == pytest.approx(chance) and high == pytest.approx(chance) and found > 1
    assert task_information(said, rng(0, "b"))[0] == pytest.approx(0)


def test_random_edits_lie_within_chance_for_about_19_policies_of_20():
    inside = 0
    for seed in range(40):
        stream = np.random.default_rng(seed)
        said = edits(lambda *_, draw=stream: draw.integers(5))
        found, _, high = task_information(said, rng(seed, "chance"), draws=100)
        inside += found <= high
    assert 33 <= inside <= 40


def test_whole_trajectories_are_dealt_out_because_a_run_may_stick_to_one_edit():
    """Each trajectory repeats a family of its own: its actions are no evidence of reading."""
    stream = np.random.default_rng(3)
    own = stream.integers(4, size=(4, 4))
    found, chance, high = task_information(edits(lambda task, run, *_: own[task, run]), rng(0, "a"))
    assert 0.1 < chance < found <= high


def test_actions_of_a_trajectory_that_was_run(tmp_path):
    task = write_task(tmp_path / "tasks")
    tools = make_tools(tmp_path)
    said = [neighbours(8), neighbours(8), "no action at all", final()]

    class Says:
        name = "rl"

        def act(self, turns):
            return [said[turn.state.step] for turn in turns]

    made = run_trajectories([Job(task, "rl", 0, 0)], Says(), tools, max_steps=6)
    table = action_table(made, lambda name: task)
    assert table["kind"].tolist() == ["favourite", "unchanged", "failed", "no edit"]
    assert table["outcome"].tolist() == ["edited", "unchanged", "invalid", "neutral"]
    assert table["family"].tolist() == ["model/knn", "model/knn", "", ""]
    assert table["state"].tolist() == ["start", "better model", "same model", "failed model"]


def test_what_became_of_words_that_no_catalogue_knows():
    task = find_task("pocket-homes")  # tabular regression
    said = [
        ("Use 9 nearest neighbours.", "model/knn", "edited"),
        ("Use 7 nearest neighbours.", "model/knn", "edited"),
        (
            "Count words in lower case.",
            "data/words",
            "corner",
        ),  # of texts; the family is told, not found again
        ("Make it better.", "other", "corner"),
        ("", "", "neutral"),  # no edit
    ]
    table = pd.DataFrame(said, columns=["edit", "family", "outcome"])
    table = table.assign(policy="rl", seed=0, task=task.name, split="held-in")
    found = wording_table(table, lambda name: task).set_index(["wording", "outcome"])["count"].to_dict()
    assert found == {
        ("its catalogue", "edited"): 2,
        ("another catalogue", "corner"): 1,
        ("no catalogue", "corner"): 1,
    }


def test_an_edit_that_is_taken_back_is_a_kind_of_its_own_and_never_the_favourite(tmp_path):
    task = write_task(tmp_path / "tasks")
    back = reply("Undo Edit Script", script_name="train.py")
    said = [neighbours(8), back, back, neighbours(9), back]

    class Says:
        name = "rl"

        def act(self, turns):
            return [said[turn.state.step] for turn in turns]

    made = run_trajectories([Job(task, "rl", 0, 0)], Says(), make_tools(tmp_path), max_steps=5)
    table = action_table(made, lambda name: task)
    assert table["kind"].tolist() == ["favourite", "undone", "failed", "favourite", "undone"]
    assert table["family"].tolist() == [
        "model/knn",
        *["Undo Edit Script"] * 2,
        "model/knn",
        "Undo Edit Script",
    ]
    assert made[0]["steps"][1]["script_after"] == made[0]["steps"][0]["script_before"]
    (found,) = reading_table(table, gap_paths([], {}, 5)).to_dict("records")
    assert (found["edits"], found["share"], found["undone"]) == (2, 0.5, 0.6)
    assert (found["undone_worse"], found["undone_better"], found["task_information"]) == (1.0, 1.0, 0.0)
    assert made[0]["final"]["feedback_last"] == 5.0 and table["state"].tolist()[2] == "worse"


def test_a_reflection_is_true_or_not_or_says_nothing():
    reply = edit_reply("Use 9 nearest neighbours.", "model", trend="failed", stream=rng(0))
    assert trend_said(reply) == "failed"
    assert trend_said(reply.replace("Reflection: ", "Reflection: Hm. ")) is None
    assert trend_said("nonsense") is None


def test_gap_after_each_step_keeps_what_an_early_end_had():
    row = trajectory("up", "rl", 0.7)  # from 0.5, best known 0.9
    row["final"]["report_path"] = [0.5, 0.6, 0.7]
    paths = gap_paths([row, trajectory("up", "rl", None, k=1, final={"stop": "unscored"})], SCALES, 4)
    assert paths["gap"].tolist() == pytest.approx([0.25, 0.5, 0.5, 0.5])
    assert gap_by_step_table(paths)["value"].tolist() == pytest.approx([0.25, 0.5, 0.5, 0.5])


def test_the_measures_of_one_sentence_by_hand():
    made = rows()
    found = reading_table(actions(), gap_paths(made, SCALES, 2)).set_index("policy").loc["rl"]
    assert (found["actions"], found["edits"], found["distinct"], found["share"]) == (18, 18, 1, 1.0)
    assert (found["unchanged"], found["agrees"], found["task_information"]) == (0.5, 1.0, 0.0)
    assert found["gap_first"] == found["gap_last"] == pytest.approx(0.6, abs=0.05)
    told = reading_sentence(reading_table(actions(), gap_paths(made, SCALES, 2)))
    assert "makes 100% of the edits, its favourite family 100%; 50% of the actions" in told
    assert "no more than chance" in told
    assert reading_sentence(reading_table(actions(("sft",)), gap_paths(made, SCALES, 2))) == ""


def beside(held_in: str, held_out: str) -> pd.DataFrame:
    ends = {"above": (0.3, 0.2, 0.4), "includes": (0.01, -0.1, 0.1), "below": (-0.2, -0.3, -0.1)}
    lines = [
        {"after": "rl", "before": "fixed-edit", "measure": "gap", "split": split, "zero": zero}
        | dict(zip(("difference", "low", "high"), ends[zero], strict=True))
        for split, zero in (("held-in", held_in), ("held-out", held_out), ("all", held_in))
    ]
    return pd.DataFrame(lines)


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        (("above", "above"), "closes more of the gap than the best fixed edit (RL minus it"),
        (("above", "includes"), "than the best fixed edit, but on held-in tasks only (RL"),
        (("includes", "includes"), "The policy after RL cannot be told from the best fixed edit (RL"),
        (
            ("includes", "below"),
            "closes less of the gap than the best fixed edit, but on held-out tasks only",
        ),
        (("below", "below"), "The policy after RL closes less of the gap than the best fixed edit (RL"),
    ],
)
def test_the_headline_says_when_a_fixed_edit_does_as_well(sides, said):
    found = against(beside(*sides))
    assert said in found and "held-out: " in found and found.count("[") == 2
    assert against(beside(*sides).query("before == 'sft'")) == ""


def test_the_headline_claims_nothing_without_an_interval():
    lone = beside("includes", "includes").assign(zero="unknown", low=np.nan, high=np.nan)
    said = "The policy after RL cannot be told from the best fixed edit for want of an interval (RL"
    assert against(lone).startswith(said) and "(no interval)" in against(lone)


def test_random_ideas_are_compared_by_the_last_submission_and_by_the_best_kept():
    table = pd.concat([beside("includes", "includes").assign(before="random-kept"), beside("above", "above")])
    table.loc[table["before"] == "fixed-edit", ["before", "measure"]] = ["random-ideas", "kept"]
    last, kept = (against(table, name) for name in ("random-kept", "random-ideas"))
    assert last.startswith(
        "By its last submission the policy after RL cannot be told from the best that random"
    )
    assert kept.startswith(
        "By its best one kept it closes more of the gap than the best that random ideas kept"
    )
    assert "held-in: +0.30 [0.20, 0.40]" in kept and against(table) == ""


def test_alarms_ring_at_their_limits_and_only_there():
    quiet = [{"step": i, "kl": 0.1, "entropy": 0.4, "share_invalid": 0.04} for i in range(9)]
    assert alarms(quiet, None) == []
    loud = [row | ({"entropy": 0.2, "share_invalid": 0.06} if row["step"] > 5 else {}) for row in quiet]
    rung = alarms([*loud, {"step": 9, "split": "holdout", "kl": 9.0}], None)
    assert [text.rpartition(": ")[2] for text in rung] == ["0.50, limit 0.75", "0.06, limit 0.05"]
    reading = pd.DataFrame({"policy": ["sft", "rl"], "share": [0.9, 0.2], "unchanged": [0.0, 0.5]})
    assert alarms([], reading) == [
        "share of its actions that are edits which change nothing: 0.50, limit 0.15"
    ]


def test_a_sequence_ends_where_nothing_adds_and_is_never_longer_than_asked():
    worth = {"a": 0.4, "b": 0.3, "c": 0.2}
    total = lambda task, made: sum(worth[key] for key in set(made))  # noqa: E731
    assert best_sequence(total, ["one", "two"], list(worth)) == ("a", "b", "c")
    assert best_sequence(total, ["one"], list(worth), 2) == ("a", "b")
    assert best_sequence(total, ["one"], list(worth), front=2) == ("a", "b")
    assert best_sequence(lambda task, made: -0.1, ["one"], ["a"]) == ()


def test_the_fixed_edits_that_were_chosen_can_be_made():
    tasks = [find_task(name) for name in list_tasks()]
    keys, gaps = chosen()["sequence"], chosen()["gaps"]
    assert len(keys) == len(gaps) <= 6 and gaps == sorted(gaps) and chosen()["tasks"] == list_tasks("held-in")
    for task in tasks:
        made = {kind: [edit.key for edit in fixed_edits(kind, task)] for kind in POLICIES}
        assert made["fixed-edit"] == keys[:1] and len(made["best-edit"]) == 1
        assert made["fixed-sequence"] == keys


def test_a_fixed_policy_says_its_edits_one_by_one_and_ends():
    task = find_task("pocket-homes")

    def at(step: int) -> Turn:
        return Turn(State(task.name, task.digest, task.env_files(), step=step), task, 6, rng(0, step))

    policy = FixedEdits("fixed-sequence")
    known = fixed_edits("fixed-sequence", task)
    replies = [policy.act([at(step)])[0] for step in range(len(known) + 1)]
    for text, one in zip(replies, known, strict=False):
        assert one.instruction in text
    assert "Final Answer" in replies[-1]
    assert FixedEdits("fixed-edit").act([at(1)])[0].count("Final Answer") == 1
