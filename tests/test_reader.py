"""What has one reading is read, however careless its form; what has two is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlagent_lib.environment.actions import ACTIONS, FIELDS, Action, parse_action
from mlagent_lib.environment.reader import FORGIVEN

HEAD = "Reflection: a\nResearch Plan and Status: b\nFact Check: c\nThought: d\n"
FINAL = "Action: Final Answer\nAction Input: "
EDIT = (
    'Action: Edit Script (AI)\nAction Input: {"script_name": "train.py", "edit_instruction": %s, '
    '"save_name": "new.py"}'
)
LINES = 'Action: Inspect Script Lines\nAction Input: {"script_name": "a", "start_line_number": 1, '
OBJECT = '{"dir_path": "."}'
LOOK = "Action: List Files\nAction Input: " + OBJECT


def read(text: str, reply_format: str = "no-thought") -> list[str] | str:
    """Return the values of the arguments, or the reason why there are none."""
    found = parse_action(text, reply_format)
    return list(found.arguments.values()) if isinstance(found, Action) else found.reason


@pytest.mark.parametrize(("what", "text", "last"), FORGIVEN, ids=[what for what, *_ in FORGIVEN])
def test_each_form_on_the_list_is_read(what, text, last):
    assert read(text)[-1] == last
    assert read(HEAD + text, "six")[-1] == last


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"**{name}:** x\n" for name in FIELDS[:4])
        + LOOK.replace("Action", "**Action").replace(": ", ":** ", 2),
        "".join(f"**{name}**: x\n\n" for name in FIELDS[:4]) + LOOK,
        "".join(f"### {name}\nx\n\n" for name in FIELDS[:4]) + LOOK,
        "".join(f"- `{name}`: x\n" for name in FIELDS[:4]) + LOOK,
        (HEAD + LOOK).lower(),
        (HEAD + LOOK).replace("\n", "\r\n"),
        (HEAD + LOOK).replace("\n", "\n\t"),
        (HEAD + LOOK).replace(" ", "\u00a0"),
        (HEAD + LOOK).replace("\n", " "),
        "\ufeff" + HEAD + LOOK,
        "```\n" + HEAD + LOOK + "\n```",
        HEAD + LOOK + "\n" + HEAD + FINAL + '{"final_answer": "x"}',
        HEAD + LOOK + "\n**Observation:**\n```\ntrain.py {a}\n```\n" + HEAD + LOOK,
        HEAD + LOOK + "<|im_end|>",
        HEAD + LOOK.replace("List Files", "[list-files]()"),
        HEAD + LOOK.replace("Input: {", 'Input: The object is\n\n~~~json\n{') + "\n~~~\n",
        HEAD + LOOK.replace("{", "[{") + "]",
        HEAD + LOOK.replace('"', "“"),
        HEAD + LOOK.replace('"', "“", 1).replace('"', "”", 1),
    ],
)  # fmt: skip
def test_relatives_that_list_the_files(text):
    found = parse_action(text)
    assert isinstance(found, Action), found
    assert (found.name, dict(found.arguments)) == ("List Files", {"dir_path": "."})


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"a\nb\n\n\tc"', "a\nb\n\n\tc"),
        ('"Thought: a\nAction: b"', "Thought: a\nAction: b"),  # a raw break, then what looks like a field
        (r'"\d+\.\w \b \/ \" \\ \u00e9 \u12"', '\\d+\\.\\w \\b / " \\ é \\u12'),
        (r'"it\'s \ud83d\ude00"', "it's 😀"),
        ('"Use "relu", then "tanh""', 'Use "relu", then "tanh"'),
        ('"Drop "a", "b" and "c"."', 'Drop "a", "b" and "c".'),
        ('"Set {"criterion": "gini", "depth": 3}"', 'Set {"criterion": "gini", "depth": 3}'),
        ('"re.sub("a", "b", s)"', 're.sub("a", "b", s)'),
        ('"keep save_name: x, and "y""', 'keep save_name: x, and "y"'),
        ("'don't drop \"rows\"'", 'don\'t drop "rows"'),
        ('"""Use\n"many" lines"""', 'Use\n"many" lines'),
        ("“He said “x”.”", "He said “x”."),
        ("Use a forest, then fit.", "Use a forest, then fit."),
    ],
)
def test_instructions_that_json_would_not_take(written, value):
    assert read(EDIT % written) == ["train.py", value, "new.py"]


@pytest.mark.parametrize(
    "written",
    [
        '"a" + "b"',  # joined, or a plus in the text
        '"a" "b"',
        '"a", "more": "b"',  # an argument that nobody knows, or its words
        '"a", more: "b"',
        '"a", // why',
        '"a',
        '["a"]',
        '{"a": "b"}',
        '"a", "save_name": "other.py"',  # twice
        "",
    ],
)
def test_instructions_of_two_readings_or_none(written):
    assert isinstance(read(EDIT % written), str)


@pytest.mark.parametrize(
    "text",
    [
        LOOK + "\n" + OBJECT,
        LOOK + ' or {"dir_path": "x"}',
        LOOK.replace("}", ', "dir_path": "x"}'),
        LOOK.replace("}", ', "all": "x",}'),
        LOOK.replace("{", "{{").replace("}", "}}"),
        LOOK.replace("Action:", "Action: Final Answer\nAction:"),
        LOOK.replace("List Files", "List Files or Final Answer"),
        LOOK.replace(OBJECT, "\nObservation: x\n" + LOOK),  # the object belongs to the second step
        LOOK.replace('."', '."x'),
        LOOK.replace('."', "."),
        LOOK.replace('"."', "None"),
        LOOK.partition("Action Input")[0],
        FINAL + '{"final_answer": "I used "relu"',  # cut off, or a brace is missing
        FINAL + '{"final_answer": "a"} "b"}',
        FINAL + '{"final_answer": I am do',
        EDIT.partition(', "save')[0] % '"a"',
        LINES + '"end_line_number": 2',  # of 20?
    ],
)  # fmt: skip
def test_replies_of_two_readings_or_none(text):
    assert isinstance(read(text), str)


ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
HARD = st.text(st.sampled_from("\"'\\{}[](),:` \n\tab</think>"))


@given(st.sampled_from(sorted(ACTIONS)), st.data(), st.booleans())
def test_what_is_well_formed_is_read_as_json_reads_it(name, data, ascii_only):
    values = {
        argument: str(data.draw(st.integers(0, 99))) if argument.endswith("number") else data.draw(ANY | HARD)
        for argument in ACTIONS[name]
    }
    text = json.dumps(values, ensure_ascii=ascii_only)
    assert read(f"Action: {name}\nAction Input: {text}") == list(values.values())


@given(HARD)
def test_a_value_written_without_escapes_is_read_as_it_stands_or_not_at_all(value):
    """No backslashes here, and no triple quotes: they are on the list."""
    value = value.replace("\\", "").replace('""', "")
    found = read(EDIT % f'"{value}"')
    assert isinstance(found, str) or found == ["train.py", value, "new.py"]
