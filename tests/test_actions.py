"""Replies accepted and refused, path safety, and the tools that only look."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import reply

from mlagent_lib.environment.actions import (
    ACTIONS,
    FIELDS,
    MAX_REPLY_CHARS,
    Action,
    ActionError,
    Invalid,
    inspect_lines,
    is_read_only,
    list_files,
    look_for,
    parse_action,
    read_text,
    safe_path,
    split_fields,
    storable,
)

HEAD = "Reflection: a\nResearch Plan and Status: b\nFact Check: c\nThought: d\n"
LOOK = '{"dir_path": "."}'
LINES = '{"script_name": "train.py", "start_line_number": %s, "end_line_number": %s}'
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates included

ACCEPTED = [
    (HEAD + f"Action: List Files\nAction Input: {LOOK}", "List Files"),
    # text before the first field and blank lines between fields are common in chat models
    (f"Sure!\n\n{HEAD}\nAction: List Files\n\nAction Input: {LOOK}\n\n", "List Files"),
    # a field may run over lines, and may quote JSON or the word Action within a line
    (HEAD.replace("d\n", 'd\nmore, e.g. {"a": 1} or Action: x\n')
     + f"Action: List Files\nAction Input: {LOOK}", "List Files"),
    # the object may be spread over lines; spaces around the name do not matter
    (HEAD + 'Action:   List Files  \nAction Input: {\n "dir_path":\n "."\n}', "List Files"),
    # line numbers as numbers or as strings of digits
    (HEAD + "Action: Inspect Script Lines\nAction Input: " + LINES % (1, '"20"'), "Inspect Script Lines"),
    (HEAD + "Action: Inspect Script Lines\nAction Input: " + LINES % ('" 0 "', "999999999"),
     "Inspect Script Lines"),
    # a form that is broken, but has one reading (more of them in test_reader)
    (HEAD + f" Action: List Files\nAction Input: {LOOK}", "List Files"),
    (HEAD + f"Action: list files\nAction Input: {LOOK}", "List Files"),
    (HEAD + "Action: List Files\nAction Input: {'dir_path': '.'}", "List Files"),
    (HEAD + f"Action: List Files\nAction Input: {LOOK} done", "List Files"),
    (HEAD + f"Action: List Files\nAction Input: ```json\n{LOOK}\n```", "List Files"),
    # an empty string is an argument; what it means is the tool's affair
    (HEAD + 'Action: Final Answer\nAction Input: {"final_answer": ""}', "Final Answer"),
]  # fmt: skip
REFUSED = [
    ("", "missing-field"),
    ("I would try a bigger model", "missing-field"),
    (f"Action: List Files\nAction Input: {LOOK}", "missing-field"),  # the first four are missing
    (HEAD.replace("Thought: d\n", "") + f"Action: List Files\nAction Input: {LOOK}", "missing-field"),
    (HEAD + f"Action Input: {LOOK}\nAction: List Files", "missing-field"),  # out of order
    (HEAD + f"Action: List Files now\nAction Input: {LOOK}", "unknown-action"),
    (HEAD + "Action: \nAction Input: {}", "unknown-action"),
    (HEAD + "Action: List Files\nAction Input: ", "bad-json"),
    (HEAD + "Action: List Files\nAction Input: " + "[" * 5000, "bad-json"),  # deeper than the parser goes
    (HEAD + 'Action: List Files\nAction Input: {"dir_path": ' + "9" * 5000 + "}", "bad-json"),
    (HEAD + 'Action: List Files\nAction Input: ["."]', "wrong-arguments"),
    (HEAD + "Action: List Files\nAction Input: null", "wrong-arguments"),
    (HEAD + "Action: List Files\nAction Input: {}", "wrong-arguments"),
    (HEAD + 'Action: List Files\nAction Input: {"dir_path": ".", "all": true}', "wrong-arguments"),
    (HEAD + 'Action: List Files\nAction Input: {"dir_path": 1}', "wrong-type"),
    (HEAD + 'Action: List Files\nAction Input: {"dir_path": null}', "wrong-type"),
    (HEAD + 'Action: List Files\nAction Input: {"dir_path": "a\\u0000b"}', "wrong-type"),
    (HEAD + 'Action: List Files\nAction Input: {"dir_path": "\\ud800"}', "wrong-type"),  # no file can hold it
    *[
        (HEAD + "Action: Inspect Script Lines\nAction Input: " + LINES % (value, 9), "wrong-type")
        for value in ("-1", "1.0", "true", "null", '"two"', '"1e3"', '"\\u0663"', "10000000000", "[1]")
    ],
    ("x" * (MAX_REPLY_CHARS + 1), "too-long"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name"), ACCEPTED)
def test_accepted_replies(text, name):
    found = parse_action(text)
    assert isinstance(found, Action) and found.name == name
    assert set(found.arguments) == set(ACTIONS[name]) and tuple(found.fields) == FIELDS
    assert all(isinstance(value, str) for value in found.arguments.values())


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_refused_replies(text, reason):
    found = parse_action(text)
    assert isinstance(found, Invalid) and found.reason == reason
    assert (
        found.message.startswith(("Invalid action: ", "ActionInputParsingError: "))
        and len(found.message) < 300
    )


def test_each_action_of_the_paper_parses_with_its_own_arguments():
    assert list(ACTIONS) == [
        "List Files", "Copy File", "Execute Script", "Final Answer", "Understand File",
        "Inspect Script Lines", "Edit Script (AI)",
    ]  # fmt: skip
    for name, names in ACTIONS.items():
        values = {argument: "3" for argument in names}
        assert parse_action(reply(name, **values)).arguments == values


def test_a_missing_field_is_named():
    assert "'Fact Check:'" in parse_action(HEAD.replace("Fact Check", "Fact")).message


def test_without_thought_two_fields_are_enough_and_six_do_no_harm():
    short = f"Action: List Files\nAction Input: {LOOK}"
    assert parse_action(short, "no-thought").name == "List Files"
    assert parse_action(HEAD + short, "no-thought").name == "List Files"


def test_fields_reach_to_the_next_name():
    text = "Reflection: one\ntwo\nThought: three\n"
    assert split_fields(text) == {"Reflection": "one\ntwo", "Thought": "three"}
    assert split_fields("nothing") == {}


@given(ANY_TEXT)
def test_parsing_any_text_never_raises(text):
    for reply_format in ("six", "no-thought"):
        assert isinstance(parse_action(text, reply_format), Action | Invalid)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(ACTIONS)), st.data())
def test_any_arguments_give_an_action_or_a_reason(name, data):
    given_values = {argument: data.draw(JSON_VALUES) for argument in ACTIONS[name]}
    found = parse_action(HEAD + f"Action: {name}\nAction Input: {json.dumps(given_values)}")
    if isinstance(found, Action):
        assert all(isinstance(value, str) and value == storable(value) for value in found.arguments.values())
    else:
        assert found.reason in ("wrong-type", "missing-field", "bad-json")


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("train.py", "train.py"), ("./train.py", "train.py"), (" train.py\n", "train.py"),
        ("a//b.py", "a/b.py"), ("a / b.py ", "a/b.py"),
        ("a/../train.py", "train.py"), ("a\\b.py", "a/b.py"), ("a/b/", "a/b"), ("..foo", "..foo"),
        ("...", "..."), (".hidden", ".hidden"), ("data/train.csv", "data/train.csv"), ("C:/x", "C:/x"),
        ("a" * 200, "a" * 200), ("é" * 100, "é" * 100),
    ],
)  # fmt: skip
def test_paths_inside_the_workspace(path, clean):
    assert safe_path(path) == clean


@pytest.mark.parametrize(
    "path",
    [
        "", " ", ".", "./", "a/..", "..", "../x", "a/../../x", "/etc/passwd", "//etc", "\\etc", "..\\x",
        "a" * 201, "é" * 101, "a\nb", "a\x1bb", "a\0b", "\ud800",
    ],
)  # fmt: skip
def test_paths_that_are_refused(path):
    with pytest.raises(ActionError, match="is not a path inside the workspace"):
        safe_path(path)


@given(ANY_TEXT | st.text("./\\a ", max_size=12))
def test_a_safe_path_stays_inside_and_is_its_own_normal_form(path):
    try:
        clean = safe_path(path)
    except ActionError:
        return
    assert ".." not in clean.split("/") and "." not in clean.split("/") and clean[0] != "/"
    assert safe_path(clean) == clean and len(clean.encode()) <= 200


@pytest.mark.parametrize(
    ("path", "globs", "expected"),
    [
        ("train.csv", ("./train.csv",), True),
        ("./train.csv", ("train.csv",), True),
        ("x/../train.csv", ("train.csv",), True),
        ("x\\..\\train.csv", ("train.csv",), True),
        ("labels/a/b.csv", ("labels",), True),  # a folder protects what lies below it
        ("labels/a/b.csv", ("labels/",), True),
        ("labels/a/b.csv", ("./labels/*",), True),
        ("deep/x.csv", ("*.csv",), True),
        ("train.py", ("*.csv", "data/*"), False),
        ("database.py", ("data/*",), False),
        ("data", (), True),  # the link to the data, whatever the task says
        ("data/new.csv", (), True),
        (".\\data\\new.csv", (), True),
        ("TRAIN.CSV", ("train.csv",), True),  # one file on macOS: a step must not depend on where it runs
    ],
)
def test_read_only_in_any_spelling(path, globs, expected):
    assert is_read_only(path, globs) is expected


FILES = {"train.py": b"one\ntwo\nthree\n", "lib/a.py": b"x = 1\n", "lib/b/c.py": b"", "raw.bin": b"\xff\xfe"}


def test_reading():
    assert read_text(FILES, "./lib/../train.py") == "one\ntwo\nthree\n"
    with pytest.raises(ActionError, match="cannot read file none.py: it does not exist or is data"):
        read_text(FILES, "none.py")
    with pytest.raises(ActionError, match="file raw.bin is not text"):
        read_text(FILES, "raw.bin")


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        (".", "data/\nlib/\nraw.bin\ntrain.py"),
        ("", "data/\nlib/\nraw.bin\ntrain.py"),
        ("././", "data/\nlib/\nraw.bin\ntrain.py"),
        ("lib", "a.py\nb/"),
        ("lib/b/", "c.py"),
        ("data", "test.csv\ntrain.csv"),
    ],
)
def test_listing(folder, shown):
    assert list_files(FILES, ("data/train.csv", "data/test.csv"), folder) == shown


@pytest.mark.parametrize("folder", ["train.py", "li", "..", "/", "nowhere"])
def test_listing_what_is_no_folder(folder):
    with pytest.raises(ActionError, match="EnvError"):
        list_files(FILES, (), folder)


def test_inspecting_lines_counts_from_one_and_includes_both_ends():
    head = "Here are the lines (the file ends at line 3):\n\n"
    assert inspect_lines(FILES, "train.py", 2, 3) == head + "two\nthree"
    assert inspect_lines(FILES, "train.py", 0, 1) == head + "one"
    assert inspect_lines(FILES, "train.py", 1, 100) == head + "one\ntwo\nthree"
    assert inspect_lines(FILES, "train.py", 50, 60) == head
    for first, last in ((1, 101), (3, 2)):
        with pytest.raises(ActionError, match=f"lines {first} to {last}: show at most 100 lines"):
            inspect_lines(FILES, "train.py", first, last)


def test_looking_quotes_the_lines_with_a_word_and_says_how():
    head = "train.py has 3 lines. By key word, without a reading model:\n"
    assert look_for(FILES, "train.py", "What is TWO?") == head + "2: two"
    assert (
        look_for(FILES, "train.py", "?") == head + "1: one\n2: two\n3: three"
    )  # nothing named: the first lines
    many = {"a.txt": b"target\n" * 40}
    assert look_for(many, "a.txt", "target").count("\n") == 12
