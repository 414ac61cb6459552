"""What a policy reads: the pocket text word for word, the full chat, and never a score on hidden labels."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import NAME, TRAIN, make_tools, neighbours, write_task

from mlagent_lib.agents.policies import ChatPolicy, LocalPolicy, Turn
from mlagent_lib.agents.prompts import (
    DROPPED,
    FULL,
    HISTORY_STEPS,
    LONGEST_OBSERVATION,
    POCKET,
    Cut,
    Prompter,
    card,
    history_text,
    pocket_text,
    trends,
)
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.agents.schema import validate_row
from mlagent_lib.agents.window import estimate_tokens, messages_tokens, shorten_lines
from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.profiles import get_profile
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
    (message,) = Prompter(max_steps=6).messages(state(past(visible=4.5)), task)
    assert message["role"] == "user"
    assert message["content"] == (f"{card(task)}\n{BLOCKS}\nHistory:\nUse 9 -> 4.5 better\nStep 2 of 6.")
    (first,) = POCKET.messages(state(), task)
    assert first["content"].endswith("# validation mae\nHistory:\nstart 5\nStep 1 of 15.")


def test_a_script_without_blocks_is_shown_as_it_is_and_cut(task):
    for script in ("print(1)\n", "x" * 9999):
        shown = POCKET.messages(replace(state(), files={"train.py": script.encode()}), task)[0]["content"]
        assert shown == f"{card(task)}\n{script[:1500]}\nHistory:\nstart 5\nStep 1 of 15."
    no_metric = replace(state(), files={"train.py": TRAIN.replace("validation", "x").encode()})
    assert (
        "learner = make_pipeline(prepare, model)\nHistory" in POCKET.messages(no_metric, task)[0]["content"]
    )
    assert POCKET.messages(replace(state(), files={}), task)[0]["content"].endswith(
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
        text = "".join(message["content"] for message in Prompter(style).messages(secret, task))
        assert "4.8765" not in text and "ffff" not in text and "d" * 64 not in text
        assert text == "".join(
            m["content"] for m in Prompter(style).messages(replace(secret, score=0.1), task)
        )


def test_the_full_style(task):
    steps = [replace(past(visible=4.0), reply=f"reply {i}", observation=f"observed {i}") for i in range(5)]
    messages = Prompter("full", 9).messages(state(*steps), task)
    assert [message["role"] for message in messages] == ["system", "user"] + ["assistant", "user"] * 3
    system, problem = messages[0]["content"], messages[1]["content"]
    for name, arguments in ACTIONS.items():
        assert f"- {name}: " in system and all(f'"{argument}"' in system for argument in arguments)
    assert all(field in system for field in FIELDS) and "9 steps in all" in system
    assert task.research_problem in problem and TRAIN in problem and card(task) in problem
    assert problem.endswith("(2 earlier steps are left out.)")
    assert messages[2]["content"] == "reply 2" and messages[3]["content"] == "Observation:\nobserved 2"
    assert messages[-1]["content"] == "Observation:\nobserved 4\n\nStep 6 of 9."
    assert Prompter("full").messages(state(), task)[-1]["content"].endswith("```\n\nStep 1 of 15.")


def test_long_observations_are_cut_in_the_middle(task):
    long = replace(past(), observation="a" * 4000 + "b" * 4000)
    shown = Prompter("full").messages(state(long), task)[-1]["content"]
    assert "a" * 2500 + "\n... 3000 characters left out ...\n" + "b" * 2500 in shown
    fits = replace(past(), observation="a" * LONGEST_OBSERVATION)
    assert "left out" not in Prompter("full").messages(state(fits), task)[-1]["content"]


def test_an_unknown_style_is_an_error(task):
    with pytest.raises(ValueError, match="style 'short' is unknown"):
        Prompter("short").messages(state(), task)


def test_the_corpus_and_the_prompt_share_one_text(task):
    shown = pocket_text(card(task), state(), task.greater_is_better, 15)
    assert POCKET.messages(state(), task)[0]["content"] == shown


# The window -------------------------------------------------------------------------------------------------


def seen(number, observation):
    return replace(past(visible=4.0), reply=f"reply {number}", observation=observation)


def test_a_prompter_carries_the_longest_prompt_wherever_it_is_passed_on():
    prompter = Prompter("full", tokens=900)
    assert (prompter.style, prompter.max_steps) == ("full", 15)
    for other in (copy.deepcopy(prompter), pickle.loads(pickle.dumps(prompter))):
        assert other == prompter and other.style == "full" and other.tokens == 900
    longest = get_profile("colab-t4").collect.max_steps
    assert Prompter.of(get_profile("colab-t4")) == Prompter("full", longest, 2816)
    assert Prompter.of(get_profile("laptop")).style == "pocket"
    assert Prompter.of(get_profile("laptop")).tokens == 0


def test_a_prompt_that_fits_is_not_touched(task):
    steps = [seen(number, f"observed {number}") for number in range(3)]
    whole = Prompter("full").messages(state(*steps), task)
    roomy = Prompter("full", tokens=messages_tokens(whole)).prompt(state(*steps), task)
    assert roomy.messages == whole and roomy.cut == Cut() and roomy.cut.to_json() == {}


def test_older_observations_go_first_then_steps_then_the_middle_of_texts(task):
    """Each budget is one token less than the prompt before it takes: the next thing given up is shown."""
    long = "number 0.123\n" * 300  # 3900 characters: below what is always shortened
    here = state(*(seen(number, f"{number} {long}") for number in range(5)))
    tokens, cuts, shown = 10**9, [], []
    while True:
        try:
            made = Prompter("full", tokens=tokens).prompt(here, task)
        except ProfileError as error:
            refusal = error
            break
        assert messages_tokens(made.messages) <= tokens
        cuts.append(made.cut)
        shown.append(made.messages)
        tokens = messages_tokens(made.messages) - 1
    assert cuts[:6] == [
        Cut(steps=2), Cut(steps=2, observations=1), Cut(steps=2, observations=2),  # the last one stays whole
        Cut(steps=3, observations=1), Cut(steps=4), Cut(steps=4, shortened=1),
    ]  # fmt: skip
    assert [m["content"] for m in shown[1] if m["content"].endswith(DROPPED)] == [f"Observation:\n{DROPPED}"]
    assert shown[2][3]["content"] == shown[2][5]["content"] == f"Observation:\n{DROPPED}"
    assert f"4 {long}" in shown[2][-1]["content"]  # word for word
    assert [m["content"] for m in shown[4] if m["role"] == "assistant"] == ["reply 4"]
    assert "(4 earlier steps are left out.)" in shown[4][1]["content"]
    assert "characters left out" in shown[5][-1]["content"]
    sizes = [messages_tokens(messages) for messages in shown]
    assert sizes == sorted(sizes, reverse=True)
    script = [cut.script for cut in cuts]
    assert script == sorted(script) and script[5] == 0 and script[-1] > 0  # the script goes last
    assert cuts[-1].steps == 5 and cuts[-1].problem > 0
    assert "Inspect Script Lines" in shown[-1][1]["content"]
    for messages in shown:  # whatever is cut, the format and the place in the trajectory stay
        assert messages[0] == shown[0][0] and messages[-1]["content"].endswith("Step 6 of 15.")
    assert "the shortest prompt of task 'tiny-homes' takes about" in str(refusal)
    assert "prompt_tokens" in refusal.cure


def test_a_long_script_loses_its_middle_and_says_which_lines(task):
    script = "".join(f"value_{number} = {number}\n" for number in range(400))
    here = replace(state(), files={"train.py": script.encode()})
    made = Prompter("full", tokens=1500).prompt(here, task)
    text = made.messages[1]["content"]
    assert "value_0 = 0\n" in text and "value_399 = 399\n" in text and "value_200 = 200\n" not in text
    assert 0 < made.cut.script < len(script) and made.cut.to_json() == {"script": made.cut.script}
    note = next(line for line in text.splitlines() if "not shown here" in line)
    first, last = (int(word) for word in note.split() if word.isdigit())
    assert (
        f"value_{first - 2} = {first - 2}\n# ..." in text
        and f"here: use Inspect Script Lines ...\nvalue_{last} =" in text
    )


def test_lines_stay_whole():
    assert shorten_lines("ab\ncd\n", 6) == ("ab\ncd\n", 0)
    shown, left_out = shorten_lines("x" * 50 + "\ny\n", 10)
    assert "lines 1 to 2 are not shown" in shown and left_out == 53


@given(text=st.text(max_size=300), digits=st.integers(0, 10**30))
def test_the_estimate_is_never_below_what_a_tokenizer_must_make(text, digits):
    """Qwen2.5 splits at digits and signs, so each of them is a token at least; parts add up at most."""
    assert estimate_tokens(str(digits)) == len(str(digits))
    assert estimate_tokens("()[]{}") == 6 and estimate_tokens("word " * 50) == 50
    assert estimate_tokens(text + "\n" + text) >= estimate_tokens(text)
    assert estimate_tokens(text) >= len(text.split())


def test_the_step_records_what_its_prompt_left_out(task, tmp_path):
    tools, job = make_tools(tmp_path / "tools", home=tmp_path), Job(task, "rl", 0, 0)
    replies = iter([neighbours(30), neighbours(20), neighbours(10), neighbours(8), neighbours(4)])
    policy = LocalPolicy(lambda conversations, seed: [next(replies)], name="rl", seed=0, prompter=FULL)
    (row,) = run_trajectories([job], policy, tools, max_steps=5)
    assert [step.get("prompt_cut") for step in row["steps"]] == [None, None, None, None, {"steps": 1}]
    validate_row(row)
    short = LocalPolicy(lambda conversations, seed: [neighbours(9)], name="rl", seed=0, prompter=POCKET)
    (plain,) = run_trajectories([job], short, tools, max_steps=5)
    assert all("prompt_cut" not in step for step in plain["steps"])  # a pocket prompt is never cut
    bad = {**row, "steps": [{**row["steps"][0], "prompt_cut": 3}]}
    with pytest.raises(Exception, match="prompt_cut"):
        validate_row(bad)


def test_a_policy_behind_a_server_notes_the_cut_too(task):
    turn = Turn(state(*(seen(n, "o") for n in range(4))), task, 15, np.random.default_rng(0))
    ChatPolicy(lambda messages: neighbours(9)).act([turn])
    assert turn.cut == {"steps": 1}
