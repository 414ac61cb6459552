"""What a policy reads: the pocket text word for word, the full chat, and never a score on hidden labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_task import NAME, TRAIN, write_task

from mlagent_lib.agents.prompts import (
    HISTORY_STEPS,
    LONGEST_OBSERVATION,
    card,
    history_text,
    pocket_text,
    render,
    trends,
)
from mlagent_lib.environment.actions import ACTIONS, FIELDS
from mlagent_lib.environment.workspace import HistoryStep, State

BLOCKS = """# data
from sklearn.impute import SimpleImputer
prepare = SimpleImputer()
# model
from sklearn.neighbors import KNeighborsRegressor
model = KNeighborsRegressor(n_neighbors=40)
# learning
learner = make_pipeline(prepare, model)
# validation mae"""


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path)


def past(outcome="edited", visible=None, instruction="Use 9.", action="Edit Script (AI)") -> HistoryStep:
    return HistoryStep("reply", action, {"edit_instruction": instruction}, "observed", outcome, visible)


def state(*history, **changes) -> State:
    files = {"train.py": TRAIN.encode()}
    values = {"visible_start": 5.0, "step": len(history), "score": 4.8765, "submission": "f" * 64}
    return State(NAME, "d" * 64, files, tuple(history), **(values | changes))


def test_the_card(task):
    assert card(task) == (
        "Task: tiny-homes. tabular, regression, mae, lower is better.\n"
        "Data: 30 rows, 2 columns. Facts: numbers only."
    )
    assert card(replace(task, facts=(), greater_is_better=True)).endswith("Facts: none.")
    assert "higher is better" in card(replace(task, greater_is_better=True))


def test_the_pocket_text_word_for_word(task):
    (message,) = render(state(past(visible=4.5)), task, max_steps=6)
    assert message["role"] == "user"
    assert message["content"] == (f"{card(task)}\n{BLOCKS}\nHistory:\nUse 9 -> 4.5 better\nStep 2 of 6.")
    (first,) = render(state(), task)
    assert first["content"].endswith("# validation mae\nHistory:\nstart 5\nStep 1 of 15.")


def test_a_script_without_blocks_is_shown_as_it_is_and_cut(task):
    for script in ("print(1)\n", "x" * 9999):
        shown = render(replace(state(), files={"train.py": script.encode()}), task)[0]["content"]
        assert shown == f"{card(task)}\n{script[:1500]}\nHistory:\nstart 5\nStep 1 of 15."
    no_metric = replace(state(), files={"train.py": TRAIN.replace("validation", "x").encode()})
    assert "learner = make_pipeline(prepare, model)\nHistory" in render(no_metric, task)[0]["content"]
    assert render(replace(state(), files={}), task)[0]["content"].endswith(
        "\n\nHistory:\nstart 5\nStep 1 of 15."
    )


def test_trends_compare_with_the_last_value_seen_in_the_metrics_direction():
    steps = (
        past(visible=4.0), past(visible=4.5), past("error"), past("neutral", action="List Files"),
        past(visible=4.5), past("corner"), past("invalid", action=""), past(visible=4.0),
    )  # fmt: skip
    lower = ["better", "worse", "failed", "done", "same", "failed", "failed", "better"]
    assert trends(state(*steps), greater_is_better=False) == lower
    swap = {"better": "worse", "worse": "better"}
    assert trends(state(*steps), greater_is_better=True) == [swap.get(word, word) for word in lower]
    assert trends(state(past(visible=4.0), visible_start=None), False) == ["same"]  # nothing to compare with
    assert trends(state(), False) == []


def test_the_history_shows_the_last_steps_in_words():
    steps = (
        past(visible=4.0, instruction="First."), past("error", instruction="Broken."),
        past("neutral", action="List Files"), past("invalid", action=""),
    )  # fmt: skip
    assert HISTORY_STEPS == 3
    assert (
        history_text(state(*steps), False)
        == "\nBroken -> failed\nList Files -> done\nunreadable reply -> failed"
    )
    assert history_text(state(past(visible=1234.56)), False) == "\nUse 9 -> 1235 worse"
    assert history_text(state(past(visible=0.012345)), False) == "\nUse 9 -> 0.0123 better"
    assert (
        history_text(state(past(visible=4.0, instruction="x" * 500)), False) == f"\n{'x' * 160} -> 4 better"
    )
    assert history_text(state(visible_start=None), False) == "\nstart"


def test_no_style_shows_a_score_on_hidden_labels(task):
    secret = replace(state(past(visible=4.5)), score=4.8765, submission="f" * 64)
    for style in ("pocket", "full"):
        text = "".join(message["content"] for message in render(secret, task, style=style))
        assert "4.8765" not in text and "ffff" not in text and "d" * 64 not in text
        assert text == "".join(m["content"] for m in render(replace(secret, score=0.1), task, style=style))


def test_the_full_style(task):
    steps = [replace(past(visible=4.0), reply=f"reply {i}", observation=f"observed {i}") for i in range(5)]
    messages = render(state(*steps), task, style="full", max_steps=9)
    assert [message["role"] for message in messages] == ["system", "user"] + ["assistant", "user"] * 3
    system, problem = messages[0]["content"], messages[1]["content"]
    for name, arguments in ACTIONS.items():
        assert f"- {name}: " in system and all(f'"{argument}"' in system for argument in arguments)
    assert all(field in system for field in FIELDS) and "9 steps in all" in system
    assert task.research_problem in problem and TRAIN in problem and card(task) in problem
    assert problem.endswith("(2 earlier steps are left out.)")
    assert messages[2]["content"] == "reply 2" and messages[3]["content"] == "Observation:\nobserved 2"
    assert messages[-1]["content"] == "Observation:\nobserved 4\n\nStep 6 of 9."
    assert render(state(), task, style="full")[-1]["content"].endswith("```\n\nStep 1 of 15.")


def test_long_observations_are_cut_in_the_middle(task):
    long = replace(past(), observation="a" * 4000 + "b" * 4000)
    shown = render(state(long), task, style="full")[-1]["content"]
    assert "a" * 2500 + "\n... 3000 characters left out ...\n" + "b" * 2500 in shown
    fits = replace(past(), observation="a" * LONGEST_OBSERVATION)
    assert "left out" not in render(state(fits), task, style="full")[-1]["content"]


def test_an_unknown_style_is_an_error(task):
    with pytest.raises(ValueError, match="style 'short' is unknown"):
        render(state(), task, style="short")


def test_the_corpus_and_the_prompt_share_one_text(task):
    shown = pocket_text(card(task), state(), task.greater_is_better, 15)
    assert render(state(), task)[0]["content"] == shown
