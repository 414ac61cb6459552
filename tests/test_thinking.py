"""What a model thinks is cut off, whatever its template writes; what an answer quotes stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import NAME, final, make_tools, reply, write_task

from mlagent_lib.agents.ideas import parse_ideas
from mlagent_lib.agents.policies import ChatPolicy
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.agents.schema import validate_row
from mlagent_lib.core.thinking import split_thinking
from mlagent_lib.environment.actions import parse_action
from mlagent_lib.environment.step import run_steps, start_state

THOUGHTS = [
    ("<think>\nabc\n</think>\n\nx", "x", 3),
    ("<THINK>abc</Think>x", "x", 3),
    ("< think >abc< /think >x", "x", 3),
    ("<thinking>abc</thinking>x", "x", 3),
    ("[THINK]abc[/THINK]x", "x", 3),
    ("<think>\n\n</think>\n\nx", "x", 0),  # a model that is told not to think
    ("abc</think>x", "x", 3),  # the template has opened it
    ("abc\n</think>\n\nx", "x", 3),
    ("don't\n</think>x", "x", 5),
    ("the users' trees.</think>\nx", "x", 17),
    ("<think>abc", "", 3),  # cut off
    ("<think>a<think>b</think>c</think>x", "x", 10),  # "a<think>b" and "c"
    ("<think>a</think>x\n<think>b</think>y", "x\ny", 2),
    ("<think>a</think><think>b</think>x", "x", 2),
    ("<think>`</think>` ends it</think>x", "x", 10),  # "`" and "` ends it"
    ("Sure.\n<think>abc</think>x", "Sure.\nx", 3),
    ("<think>" + "long " * 10_000 + "</think>x", "x", 49_999),
    ("<think>```python\nx\n</think>y", "y", 11),
    ("◁think▷abc◁/think▷x", "x", 3),
    ("<|channel|>analysis<|message|>abc<|channel|>final<|message|>x", "x", 3),
    ('<|channel|>analysis<|message|>"<|start|>assistant<|channel|>final<|message|>x', "x", 1),
    ("<|channel|>final<|message|>x", "x", 0),
    ("<|channel|>analysis<|message|>abc", "", 3),
]
ANSWERS = [
    "",
    " a text with blanks\n",
    "x = text.split('</think>')[-1]",
    'Action Input: {"final_answer": "drop </think> and <think>"}',
    'Action Input: {"final_answer": "say \\"</think> here"}',
    'Action Input: {"final_answer": "' + "long " * 300 + '</think> here"}',
    "I use the <think> tag.",
    "```python\nPROMPT = '''<think>\n</think>\n'''\n```",
    "if a <think or b> c",
]


@pytest.mark.parametrize(("text", "answer", "length"), THOUGHTS)
def test_thoughts_are_cut_off_and_counted(text, answer, length):
    assert split_thinking(text) == (answer, length)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_stays_as_it_is(text):
    assert split_thinking(text) == (text, 0)


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "\n", '"', "'", "`", "```", "[THINK]"])))
def test_any_mixture_of_tags_has_an_answer_no_longer_than_the_text(parts):
    text = "".join(parts)
    answer, length = split_thinking(text)
    assert 0 <= length <= len(text) - len(answer)
    assert split_thinking("<think>" + text.replace("</think>", "") + "\n</think>\nx")[0] == "x"


def test_a_draft_in_a_thought_is_no_action():
    draft = reply("Execute Script", script_name="train.py")
    assert parse_action(f"<think>{draft}</think>{final()}").name == "Final Answer"
    assert parse_action(f"{draft}\n</think>\n{final()}").name == "Final Answer"
    assert "without an answer" in parse_action(f"<think>{draft}").message
    assert parse_action("<think>" + "x" * 30_000 + f"</think>{final()}").name == "Final Answer"
    assert parse_action("<think>a</think>" + "x" * 30_000).reason == "too-long"


def test_only_the_length_of_a_thought_is_recorded_and_nothing_is_sent_back(tmp_path):
    task, sent = write_task(tmp_path), []
    look = reply("List Files", dir_path=".")
    texts = iter(
        [f"<think>private 1</think>{look}", f"private 22\n</think>\n{look}", "<think>private", final()]
    )

    def complete(messages):
        sent.append(str(messages))
        return next(texts)

    policy = ChatPolicy(complete, name="thinker", max_replies=1)
    (row,) = run_trajectories([Job(task, "thinker", 0, 0)], policy, make_tools(tmp_path), max_steps=4)
    assert [step["outcome"] for step in row["steps"]] == ["neutral", "neutral", "invalid", "neutral"]
    assert [step.get("thought") for step in row["steps"]] == [9, 10, 7, None]
    assert [step["reply"] for step in row["steps"]] == [look, look, "", final()]
    assert len(sent) == 4 and "private" not in "".join(sent) + str(row) and "(no answer)" in sent[3]
    validate_row(row)


def test_a_local_model_that_thinks_leaves_no_thought_in_its_state(tmp_path):
    task, tools = write_task(tmp_path), make_tools(tmp_path)
    (result,) = run_steps([(start_state(task, tools), f"<think>private</think>{final()}")], tools)
    assert result.state.done and result.state.history[-1].reply == final() and task.name == NAME


def test_thoughts_are_no_ideas():
    assert parse_ideas("<think>Use many more trees.</think>Scale all the columns.") == [
        "Scale all the columns."
    ]
