"""Policies: each reply is an action, ideas are carried out in order, streams decide the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_task import NAME, TRAIN, final, write_task

from mlagent_lib.agents.ideas import Idea
from mlagent_lib.agents.policies import ChatPolicy, LocalPolicy, RandomIdeas, ScriptedExpert, Starter, Turn
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.agents.replies import compose, edit_reply, final_reply, look_reply, trend_of, undo_reply
from mlagent_lib.core.errors import EndpointError
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.actions import FIELDS, KNOWN, Action, parse_action
from mlagent_lib.environment.workspace import HistoryStep, State
from mlagent_lib.tasks.pocket.catalogue import interpret

IDEAS = (
    Idea("model/none", "model", "Use 9 nearest neighbours."),
    Idea("data/none", "data", "Impute missing numbers with the median and leave the categories out."),
)


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path)


def turn(task, *names, ideas=(), history=()) -> Turn:
    state = State(NAME, task.digest, {"train.py": TRAIN.encode()}, history, 5.0, 5.0, 5.0)
    return Turn(state, task, 6, rng(0, *names), ideas)


def test_the_starter_ends_at_once(task):
    (text,) = Starter().act([turn(task)])
    assert parse_action(text).name == "Final Answer"


def test_random_ideas_are_valid_edits_and_follow_the_stream(task):
    turns = [turn(task, i) for i in range(40)]
    texts = RandomIdeas().act(turns)
    asked = [parse_action(text).arguments["edit_instruction"] for text in texts]
    assert all(interpret(instruction, "tabular", "regression") for instruction in asked)
    assert len(set(asked)) > 20
    assert RandomIdeas().act([turn(task, i) for i in range(40)]) == texts
    assert RandomIdeas().act([turn(task, i) for i in reversed(range(40))]) == texts[::-1]


def test_the_expert_carries_out_its_ideas_in_order_and_ends(task):
    expert, one = ScriptedExpert(look_share=0.0), turn(task, ideas=IDEAS)
    actions = [parse_action(expert.act([one])[0]) for _ in range(3)]
    assert [action.name for action in actions] == ["Edit Script (AI)", "Edit Script (AI)", "Final Answer"]
    assert [action.arguments["edit_instruction"] for action in actions[:2]] == [idea.text for idea in IDEAS]
    assert one.ideas == IDEAS  # its own notes are elsewhere


def test_the_expert_words_ideas_of_the_catalogue_anew(task):
    from mlagent_lib.tasks.pocket.catalogue import edits

    known = next(edit for edit in edits("tabular", "regression") if len(edit.wordings) > 1)
    idea = Idea(known.key, known.axis, known.instruction)
    expert = ScriptedExpert(look_share=0.0)
    texts = [expert.act([turn(task, i, ideas=(idea,))])[0] for i in range(30)]
    said = {parse_action(text).arguments["edit_instruction"] for text in texts}
    assert said == set(known.wordings)
    assert {interpret(wording, "tabular", "regression") for wording in said} == {(known.axis, known.block)}


def test_the_expert_looks_now_and_then_but_never_twice_in_a_row(task):
    expert, names = ScriptedExpert(look_share=1.0), []
    one = turn(task, ideas=IDEAS)
    for _ in range(5):
        names.append(parse_action(expert.act([one])[0]).name)
    is_edit = [name == "Edit Script (AI)" for name in names]
    assert is_edit == [False, True, False, True, False] and names[-1] == "Final Answer"
    assert "Final Answer" not in names[:4]


def test_the_expert_takes_back_what_hurt_or_failed_and_nothing_else(task):
    def names(visible, outcome="edited", action="Edit Script (AI)", share=1.0):
        step = HistoryStep("", action, {"edit_instruction": "x"}, "", outcome, visible)
        expert, found = ScriptedExpert(look_share=0.0, undo_share=share), set()
        for number in range(20):
            one = turn(task, number, history=(step,), ideas=IDEAS)
            one.state = replace(one.state, past=(("train.py", b"before"),))
            found.add(parse_action(expert.act([one])[0]).name)
        return found

    assert not task.greater_is_better
    assert names(6.0) == names(None, "error") == {"Undo Edit Script"}  # from 5.0
    assert names(4.0) == names(5.0) == {"Edit Script (AI)"}
    assert names(6.0, action="Undo Edit Script") == names(6.0, share=0.0) == {"Edit Script (AI)"}
    assert names(6.0, share=0.5) == {"Undo Edit Script", "Edit Script (AI)"}


@pytest.mark.parametrize("reply_format", ["six", "no-thought"])
def test_every_reply_of_the_scripts_is_an_action_in_its_format(reply_format):
    seen = set()
    for number in range(200):
        stream = rng(1, number)
        for text in (
            look_reply(trend="start", stream=stream, reply_format=reply_format),
            final_reply(trend="worse", stream=stream, reply_format=reply_format),
            undo_reply(trend="worse", stream=stream, reply_format=reply_format),
            edit_reply('Use "9".\n', "model", trend="better", stream=stream, reply_format=reply_format),
        ):
            action = parse_action(text, reply_format)
            assert isinstance(action, Action)
            assert tuple(action.fields) == (FIELDS if reply_format == "six" else FIELDS[-2:])
            seen.add(action.name)
    assert seen == set(KNOWN)
    assert action.arguments["edit_instruction"] == 'Use "9".\n'


def test_a_reply_word_for_word():
    stream = rng(0, "word")
    text = compose(
        "List Files", {"dir_path": "."}, topic="look", trend="done", stream=stream, reply_format="no-thought"
    )
    assert text == 'Action: List Files\nAction Input: {"dir_path": "."}'


def test_the_reflection_tells_how_the_last_step_went(task):
    step = HistoryStep("", "Edit Script (AI)", {"edit_instruction": "x"}, "", "edited", 4.0)
    after = turn(task, history=(step,)).state
    assert (trend_of(after, False), trend_of(after, True)) == ("better", "worse")
    assert trend_of(turn(task).state, False) == "start"
    for name, words in (
        ("better", ("made it better", "helped")),
        ("start", ("Nothing has been", "first step")),
    ):
        text = final_reply(trend=name, stream=rng(0))
        assert any(word in text.split("\n")[0] for word in words)


def test_a_chat_policy_sends_the_prompt_and_the_ideas(task):
    sent = []
    policy = ChatPolicy(lambda messages: sent.append(messages) or final(), name="expert")
    assert policy.act([turn(task), turn(task, ideas=IDEAS)]) == [final(), final()]
    assert sent[0] == Prompter("full", 6).messages(turn(task).state, task)
    extra = "\n\nImplement these ideas first, one by one:\n- Use 9 nearest neighbours.\n- Impute missing"
    assert extra in sent[1][1]["content"] and extra not in str(sent[0])
    assert policy.name == "expert"


def test_a_server_that_fails_ends_as_an_error_with_a_cure(task):
    def complete(messages):
        raise EndpointError("HTTP 503 from the server, 4 times", cure="start it again")

    with pytest.raises(EndpointError, match=r"HTTP 503 .* What to do: start it again"):
        ChatPolicy(complete).act([turn(task)])


def test_a_local_policy_generates_in_one_batch_with_a_seed_for_each_call(task):
    calls = []

    def generate(conversations, seed):
        calls.append((conversations, seed))
        return [f"reply {i}" for i in range(len(conversations))]

    def policy(name="rl", seed=0):
        return LocalPolicy(generate, name=name, seed=seed)

    first = policy()
    assert first.act([turn(task), turn(task)]) == ["reply 0", "reply 1"]
    first.act([turn(task)])
    assert calls[0][0] == [Prompter("pocket", 6).messages(turn(task).state, task)] * 2
    for other in (policy(), policy("sft"), policy(seed=1)):
        other.act([turn(task)])
    seeds = [seed for _, seed in calls]
    assert (
        seeds[2] == seeds[0] and len(set(seeds)) == 4
    )  # calls, names and roots differ; the same call repeats
