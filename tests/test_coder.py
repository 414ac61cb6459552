"""Coders: exact rules, a block model, a chat model; their failures are theirs and spoil no other row."""

from __future__ import annotations

import pytest
from tiny_task import TRAIN, FakeRunner, edit, make_tools, write_task

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
from mlagent_lib.environment.coder_reply import find_script
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import run_step, start_state
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
        ("<think>\n# data\nx = 1\n</think>\n\n# model\nmodel = f()", ("model", "model = f()")),
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

    coder = BlockCoder(generate)
    rows = requests(task, "Use 9.", "other", "Use 9.") + requests(task, "Use 9.", script="print(1)")
    good, refused, again, broken = coder.edit_many(rows)
    assert good == again == TRAIN.replace("n_neighbors=40", "n_neighbors=9")
    assert isinstance(refused, CoderError) and isinstance(broken, CoderError)
    assert [len(prompts) for prompts in asked] == [2]
    assert coder.edit_many(rows)[0] == good and len(asked) == 1
    assert coder.edit_many([]) == []


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


EDITED = TRAIN.replace("n_neighbors=40", "n_neighbors=9") + "# edited\n"
FENCED = '"""Train.\n\n```bash\npython train.py\n```\n```python\nTREES = 30\n```\n"""\n' + EDITED
HALF = "\n".join(EDITED.split("\n")[:12]) + "\n"  # ends with a whole line, so it compiles


def nested(text):
    return "".join(f"   {line}" for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("reply", "script"),
    [
        *((f"Here:\n```{label}\n{EDITED}```\nDone.", EDITED) for label in (
            "Python", "PYTHON", "python3", "python3.11", "{.python}", 'python title="train.py"', "train.py",
            "python:src/train.py", "text", "tool_code", "bash",
        )),
        (f"Run:\n```bash\npip install x\n```\nThen this runs:\n```python\n{EDITED}```\nDone.", EDITED),
        ("```diff\n" + "-a = 1\n+b = 2\n" * 300 + f"```\nAll of it:\n```\n{EDITED}```", EDITED),
        (f"```diff\n-a\n+b\n\n```python\n{EDITED}```", EDITED),  # the diff has no end
        (f"Such:\n```Python\nTREES = 30\n```\nAll:\n```Python\n{EDITED}```\nDone.", EDITED),
        (f"It was:\n```python\n{TRAIN}\n\n\n```\nNow:\n```python\n{EDITED}```", EDITED),
        (f"~~~python\n{EDITED}~~~\n", EDITED),
        (f"````markdown\n```python\n{EDITED}```\n````", EDITED),
        (f"1. So:\n\n   ```python\n{nested(EDITED)}   ```\n2. Run it.", EDITED),
        (f"Here it is: ```python\n{TRAIN.rstrip()}```\nDone.", TRAIN),
        (f"Here's all:\n```python\n{EDITED}", EDITED),  # never closed, yet whole
        (f"```python\n{FENCED}```\nDone.", FENCED),
        (f"```\n{FENCED}", FENCED),
        (f"Sure\nHere's it:\n\n{FENCED}\nI've changed (one) line.\n- tested\nDone", FENCED),
        (f"sure! it's this:\nimport ast\n{EDITED}\nNote: tested", f"import ast\n{EDITED}"),
        (f"Look:\n\n{nested(EDITED)}\nThat is all.", EDITED),
        (f"~~~python\n{EDITED}\nGood, tested", EDITED),
        (f"<think>\nSo:\n```python\n{EDITED}x = 1\n```\n</think>\n```python\n{EDITED}```", EDITED),
        (f"So:\n```python\n{EDITED}x = 1\n```\n</think>\n```python\n{EDITED}```", EDITED),
        (f"{EDITED}\nRun it:\n```bash\npython train.py\n```", EDITED),
        *((f"```{label}{EDITED}```", EDITED) for label in (
            "python ", "python", "\npython\n", "python\n\ufeff",
        )),
        (f"```python\n{EDITED}```<|im_end|>\n", EDITED),
        (f"```python\n{EDITED}x = '\\d' is 1\n```".replace("\n", "\r\n"), f"{EDITED}x = '\\d' is 1\n"),
    ],
)  # fmt: skip
def test_the_python_is_found_whatever_stands_around_it(task, recwarn, reply, script):
    assert ChatCoder(lambda messages: reply).edit_many(requests(task, "Use 9.")) == [script]
    assert not recwarn.list  # what Python thinks of the script is told where it runs


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("```diff\n--- a\n+++ b\n-x = 1\n+x = 2\n```", "without a code block"),
        ("```\n-a\n+b\n```\nDone", "it does nothing"),
        ("```diff\n" + nested("x = 1\n" + EDITED) + "-f()\n+g()\n```", "without a code block"),
        ('```json\n{"a": 1}\n```\nNote: x', "without a code block"),
        ("Done", "without a code block"),
        ("```\npip install x y\n```\nThen\n```\npip install y z\n```", "invalid syntax (line 1)"),
        (f"```python\n{HALF}", "it is cut off"),
        (f"```python\nTREES = 30\n```\nAll of it:\n```python\n{HALF}", "it is cut off"),
        (HALF, "without a code block"),
        (f"<think>\nI write\n```python\n{EDITED}```", "without a code block"),  # its thought has no end
        (f"So:\n{FENCED}x = = 1\nDone", "without a code block"),  # what stands inside it is no script
        (f"```python\n{EDITED}x = = 1\n```\nThat is:\n```python\nx = 1\n```", "invalid syntax (line 18)"),
        (f"```python\n{FENCED.replace('import numpy', 'import import')}```", "invalid syntax (line 10)"),
        (f"```python\n{EDITED}return 3\n```", "'return' outside function"),
        (f"```python\n{EDITED}\0\n```", "null bytes"),
        ("```python\nx = " + "-" * 50_000 + "1\n```", "it cannot be read"),
        ("```python\n" * 3000, "it is cut off"),
        ("It was so.\n" * 5000 + EDITED, "without a code block"),
        ("import numpy as np\n" + "- a\n" * 5000, "without a code block"),
    ],
)  # fmt: skip
def test_what_is_no_whole_program_is_a_failure_of_the_coder_and_is_not_run(task, reply, words):
    (made,) = ChatCoder(lambda messages: reply).edit_many(requests(task, "Use 9."))
    assert isinstance(made, CoderError) and words in made.message
    block = BlockCoder(lambda prompts: ["# model\nmodel = Ridge("] * len(prompts))
    (made,) = block.edit_many(requests(task, "Use 9."))
    assert isinstance(made, CoderError) and "'(' was never closed" in made.message


def test_a_file_that_is_no_program_need_not_become_one(task):
    reply = "Here:\n```yaml\nlr: 0.2\nsteps: 3\n```\nA long sentence between.\n```bash\npython x\n```"
    coder = ChatCoder(lambda messages: reply)
    assert coder.edit_many(requests(task, "0.2", script="lr: 0.1\nsteps: 3\n")) == ["lr: 0.2\nsteps: 3\n"]


def test_a_script_with_a_byte_order_mark_is_a_program(task):
    reply = f"Run:\n```bash\npip install x\n```\nThen:\n```python\n{EDITED}```"
    coder = ChatCoder(lambda messages: reply)
    assert coder.edit_many(requests(task, "Use 9.", script="\ufeff" + TRAIN)) == [EDITED]


def test_an_edit_that_does_not_compile_keeps_the_script_and_is_a_corner_case(tmp_path):
    task, runner = write_task(tmp_path / "tasks"), FakeRunner()
    tools = make_tools(tmp_path, runner, ChatCoder(lambda messages: f"```Python\n{EDITED}x = (\n```"))
    start = start_state(task, tools)
    found = run_step(start, edit("Use 9."), tools)
    assert (found.outcome, found.reason, found.executed) == (Outcome.CORNER, "coder", False)
    assert found.state.files == start.files and len(runner.requests) == 1  # the starter's own run
    assert "LLMError: the edit was not made: " in found.observation and "line 18" in found.observation


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


WHOLE = (
    "import pandas\nmodel = 1\nfor row in range(3):\n    model += row\npandas.Series(model).to_csv('a.csv')\n"
)


@pytest.mark.parametrize(
    "mark",
    [
        "# ... rest of the script unchanged",
        "# … existing code …",
        "# The rest stays the same.",
        "# remaining lines omitted",
        "# ... (unchanged) ...",
        "...",
    ],
)
def test_a_script_with_a_part_left_out_is_the_coders_failure(mark):
    for script in (f"model = 2\n{mark}\n", WHOLE.replace("model = 1", f"model = 2\n{mark}")):
        with pytest.raises(ValueError, match="the coder left out a part of the script"):
            find_script(f"```python\n{script}```\n", WHOLE)


@pytest.mark.parametrize(
    "line",
    [
        "# Train the model...",
        "# loop over 1...n",
        "# the rest of the columns are numbers",
        "text = '# ... rest of the script unchanged'",
        "def stub():\n    ...",
    ],
)
def test_a_comment_that_leaves_nothing_out_is_kept(line):
    script = WHOLE.replace("model = 1", f"model = 2\n{line}")
    assert find_script(f"```python\n{script}```\n", WHOLE) == script
    kept = WHOLE.replace(
        "model = 1", "# ... rest of the script unchanged\nmodel = 1"
    )  # it stood there before
    assert find_script(f"```python\n{kept}```\n", kept) == kept
