"""A pretrained model beside the pocket model: what is compared, by hand, and what is left out."""

import json

import pandas as pd
import pytest

from mlagent_lib.core.errors import RunError
from mlagent_lib.results import two_models

WIDTH = 0.2  # of the gap between a model after SFT and the same after RL, below


def folder(place, profile, seeds, level):
    """Write results: ``level`` is the gap closed after SFT, RL closes ``WIDTH`` more."""
    place.mkdir()
    gaps = {"base": level - 0.1, "sft": level, "rl": level + WIDTH, "fixed-edit": 0.1, "random-kept": 0.3}
    paths = [
        ("full", policy, seed, f"t-{split}", split, f"{policy}/{k}", gap, gap, 1.0, False)
        for policy, gap in gaps.items()
        for seed in seeds
        for split in two_models.HELD
        for k in range(4)
    ]
    columns = "arm policy seed task split trajectory gap_closed gap_closed_by_validation gain_pct unscored"
    steps = [
        ("full", policy, seed, "t", f"{state}-{extra}", outcome, paid)
        for policy, paid in (("sft", 0.4), ("rl", 0.6))
        for seed in seeds
        for state, outcome, extra in (("a", "edited", ""), ("b", "invalid", ""), ("c", "invalid", profile))
    ]
    reading = [
        (policy, seed, 0.25, 0.1, 1.0, 1.5, 1.1, 0.4, 0.6) for policy in ("sft", "rl") for seed in seeds
    ]
    words = [("rl", seed, "held-in", "its catalogue", "edited", 18) for seed in seeds]
    words += [("rl", seed, "held-in", "no catalogue", "corner", 2) for seed in seeds]
    updates = [("train", 1, 64.0, 90.0, 3600.0, seed) for seed in seeds]
    updates += [("holdout", 1, None, None, None, seed) for seed in seeds]
    tables = {
        "trajectories": (paths, columns),
        "step_rewards": (steps, "arm policy seed task state outcome reward"),
        "reading": (
            reading,
            "policy seed share unchanged agrees task_information task_chance_high state_information "
            "state_chance_high",
        ),
        "wordings": (words, "policy seed split wording outcome count"),
        "grpo_metrics": (updates, "split step steps completion_tokens seconds_charged seed"),
    }
    for name, (rows, names) in tables.items():
        pd.DataFrame(rows, columns=names.split()).to_csv(place / f"{name}.csv", index=False)
    stage = {"wall_s": 1800.0, "peak_memory_bytes": 2_000_000_000}
    runs = {
        f"run{seed}": {"02_sft": stage | {"seed": seed}, "03_grpo": stage | {"seed": seed}} for seed in seeds
    }
    (place / "manifest.json").write_text(json.dumps({"profile": profile, "runs": runs}))
    return place


@pytest.fixture
def tables(tmp_path):
    return two_models.load_both(
        [folder(tmp_path / "a", "laptop", (0, 1, 2), 0.0), folder(tmp_path / "b", "laptop-llm", (1, 2), 0.3)]
    )


def test_only_seeds_and_states_that_both_have_are_compared(tables):
    assert set(tables["trajectories"]["seed"]) == {1, 2}
    assert set(tables["step_rewards"]["state"]) == {"a-", "b-"}  # c is another state in each


def test_of_few_shared_states_nothing_is_told(tables):
    questions = two_models.beside_table(tables)["question"]
    assert not questions.str.contains("never trained on|step reward").any() and len(questions) > 15


def test_the_comparison_by_hand(tables, monkeypatch):
    monkeypatch.setattr(two_models, "FEW_STATES", 4)
    found = two_models.beside_table(tables).set_index("question")
    assert list(found) == ["pocket", "smollm2"]
    assert found["smollm2"]["gap closed, held-in: base, SFT, RL"].startswith("0.20 [0.20, 0.20], 0.30 ")
    assert found["pocket"]["gap closed, held-out: RL − best fixed edit"] == "0.10 [0.10, 0.10]"
    assert found["pocket"]["valid replies on 4 states never trained on: SFT, RL"] == "50%, 50%"
    assert (
        found["smollm2"]["edits in words of no catalogue: SFT, RL"]
        == "–, 10% (4 corner (a limit or the coder))"
    )
    assert found["smollm2"]["RL: replies, tokens of a reply"] == "128, 90"
    assert found["smollm2"]["RL: processor hours charged, each run"] == "1.00"
    assert found["smollm2"][list(found.index)[-1]] == "1.00; 2.0 GB"


def test_what_is_said_follows_the_intervals(tables):
    told = two_models.sentences(tables)
    assert len(told) == 6
    assert told[-1] == "after RL, held-out: smollm2 closes more of the gap than pocket (0.30 [0.30, 0.30])."


def test_the_picture_has_both_models_and_one_fixed_edit(tables):
    policies = ("base model", "after SFT", "after RL")
    own = {f"{model}: {name}" for model in ("pocket", "smollm2") for name in policies}
    assert set(two_models.gap_table(tables)["policy"]) == own | {"fixed-edit"}


def test_nothing_to_compare_is_said_with_its_cure(tmp_path):
    one = folder(tmp_path / "a", "laptop", (0,), 0.0)
    with pytest.raises(RunError, match="no results of runs"):
        two_models.load_both([one, tmp_path / "none"])
    with pytest.raises(RunError, match="no seed in common"):
        two_models.load_both([one, folder(tmp_path / "b", "laptop-llm", (1,), 0.3)])
