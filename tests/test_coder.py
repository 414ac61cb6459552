"""Coders: exact rules, a block model, a chat model; their failures are theirs and spoil no other row."""

from __future__ import annotations

import pytest
from tiny_task import TRAIN, write_task

from mlagent_lib.core.errors import CoderError, EndpointError, Unscored
from mlagent_lib.environment.coder import (
    BlockCoder,
    ChatCoder,
    EditRequest,
    RuleCoder,
    block_prompt,
    parse_block_reply,
    visible_part,
)
from mlagent_lib.tasks.pocket import catalogue

KNN = "from sklearn.neighbors import KNeighborsRegressor\nmodel = KNeighborsRegressor(n_neighbors=9)"
VISIBLE = """# data
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


def requests(task, *instructions, script=TRAIN):
    return [EditRequest(task, script, instruction) for instruction in instructions]


def test_the_rule_coder_equals_the_catalogue_for_every_wording(task):
    pairs = [
        (edit, wording) for edit in catalogue.edits("tabular", "regression") for wording in edit.wordings
    ]
    made = RuleCoder().edit_many(requests(task, *(wording for _, wording in pairs)))
    assert made == [catalogue.replace_block(TRAIN, edit.axis, edit.block) for edit, _ in pairs]
    assert len(made) >= 200


def test_the_rule_coder_refuses_the_rest_row_by_row(task):
    from dataclasses import replace

    good, bad = RuleCoder().edit_many(requests(task, "Use 9 nearest neighbours.", "make it good"))
    assert good == TRAIN.replace("n_neighbors=40", "n_neighbors=9")
    assert isinstance(bad, CoderError) and "'make it good'" in str(bad)
    broken, foreign = RuleCoder().edit_many(
        [
            *requests(task, "Use 9 nearest neighbours.", script="print(1)\n"),
            *requests(replace(task, modality="sound"), "Use 9 nearest neighbours."),
        ]
    )
    assert isinstance(broken, CoderError) and "no block '# model'" in str(broken)
    assert isinstance(foreign, CoderError) and "pocket tasks only" in str(foreign)


def test_what_a_block_coder_reads():
    assert visible_part(TRAIN) == VISIBLE
    assert block_prompt(TRAIN, " Use 9. \n") == f"Script:\n{VISIBLE}\nEdit: Use 9."
    assert visible_part(TRAIN.replace("validation", "held-out")) == VISIBLE.removesuffix("\n# validation mae")
    with pytest.raises(ValueError, match="no block '# data'"):
        block_prompt("print(1)", "x")


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("# model\nmodel = f()", ("model", "model = f()")),
        ("\n# data \nprepare = 1\nx = 2\n", ("data", "prepare = 1\nx = 2")),  # line breaks around do no harm
        ("# learning\nlearner = model", ("learning", "learner = model")),
    ],
)
def test_block_replies_that_are_understood(reply, parsed):
    assert parse_block_reply(reply) == parsed


@pytest.mark.parametrize(
    "reply",
    ["", "model = f()", "# model", "# model\n", "# model\n  \n", "# frame\nx = 1", "# models\nx = 1",
     "Sure:\n# model\nx = 1", "# model\na = 1\n\nb = 2"],
)  # fmt: skip
def test_block_replies_that_are_refused(reply):
    with pytest.raises(ValueError, match="not a header and its block"):
        parse_block_reply(reply)


def test_the_block_coder_asks_once_for_each_request_and_keeps_the_order(task):
    asked = []

    def generate(prompts):
        asked.append(prompts)
        return ["# model\n" + KNN if "Use 9" in prompt else "hm" for prompt in prompts]

    coder = BlockCoder(generate, name="base")
    rows = requests(task, "Use 9.", "other", "Use 9.") + requests(task, "Use 9.", script="print(1)")
    good, refused, again, broken = coder.edit_many(rows)
    assert good == again == TRAIN.replace("n_neighbors=40", "n_neighbors=9")
    assert isinstance(refused, CoderError) and isinstance(broken, CoderError)
    assert [len(prompts) for prompts in asked] == [2]
    assert coder.edit_many(rows)[0] == good and len(asked) == 1
    assert coder.edit_many([]) == [] and coder.name == "base"


def test_the_block_coder_keeps_the_newest_edits_only_and_none_of_a_batch_is_missing(task, monkeypatch):
    monkeypatch.setattr("mlagent_lib.environment.coder._KEPT_EDITS", 3)
    asked = []

    def generate(prompts):
        asked.extend(prompt.rpartition(" ")[2] for prompt in prompts)
        return ["# model\n" + KNN] * len(prompts)

    coder = BlockCoder(generate)
    made = coder.edit_many(requests(task, *(f"Use {number}" for number in range(5))))
    assert made == [TRAIN.replace("n_neighbors=40", "n_neighbors=9")] * 5 and len(coder._memory) == 3
    assert coder.edit_many(requests(task, "Use 4", "Use 0")) == made[:2]
    assert asked == ["0", "1", "2", "3", "4", "0"]
    coder.edit_many(requests(task, *(f"Use {number}" for number in range(5)), script="print(1)"))
    assert len(coder._memory) == 3  # what it cannot do counts too


@pytest.mark.parametrize(
    ("reply", "script"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("Here:\n```py\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx\n```\nor\n```python\nx = 1\ny = 2\n```", "x = 1\ny = 2\n"),  # the longest is the file
        ("x = 1", None),
        ("```python\nx = 1", None),  # cut off
        ("```python\n\n```", None),  # an empty file is no edit
        ("", None),
    ],
)
def test_chat_replies(task, reply, script):
    (made,) = ChatCoder(lambda messages: reply).edit_many(requests(task, "Use 9."))
    assert made == script if script else isinstance(made, CoderError)


def test_the_chat_coder_is_shown_script_and_instruction_and_a_lost_server_is_our_failure(task):
    seen = []

    def complete(messages):
        seen.append(messages)
        if "down" in messages[1]["content"]:
            raise EndpointError("no reply from the server", cure="start it")
        return "```python\nx = 1\n```"

    lost, made = ChatCoder(complete).edit_many(requests(task, "down", "up"))
    assert isinstance(lost, Unscored) and "no reply from the server" in str(lost) and "start it" in str(lost)
    assert made == "x = 1\n"
    assert [message["role"] for message in seen[1]] == ["system", "user"]
    assert TRAIN in seen[1][1]["content"] and "Edit instruction: up" in seen[1][1]["content"]
