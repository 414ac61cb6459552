"""The pretraining text: formats that parse, exact edits, invented tasks, and the same text again."""

from __future__ import annotations

import json
import re
from itertools import islice

import pytest

from mlagent_lib.agents import replies
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.actions import KNOWN, Action, parse_action
from mlagent_lib.environment.coder import parse_block_reply
from mlagent_lib.tasks.pocket import catalogue
from mlagent_lib.tasks.pocket.cards import DECIDES
from mlagent_lib.tasks.registry import list_tasks
from mlagent_lib.training import corpus

SUITE = frozenset(list_tasks())


@pytest.fixture(scope="module")
def drawn() -> list[dict]:
    return list(islice(corpus.examples(11, forbidden=SUITE), 600))


def test_the_same_seed_gives_the_same_text_and_another_seed_another(drawn):
    assert list(islice(corpus.examples(11, forbidden=SUITE), 50)) == drawn[:50]
    assert list(islice(corpus.examples(12, forbidden=SUITE), 50)) != drawn[:50]


def test_shares_of_the_two_kinds(drawn):
    coder = sum(example["kind"] == "coder" for example in drawn)
    assert {example["kind"] for example in drawn} == {"coder", "agent"} and 240 < coder < 360
    assert {e["kind"] for e in islice(corpus.examples(0, coder_share=1.0), 20)} == {"coder"}
    assert {e["kind"] for e in islice(corpus.examples(0, coder_share=0.0), 20)} == {"agent"}


def test_coder_examples_are_what_the_catalogue_would_do(drawn):
    off_grid = 0
    for example in (example for example in drawn if example["kind"] == "coder"):
        axis, block = parse_block_reply(example["completion"])
        instruction = example["prompt"].rsplit("\nEdit: ", 1)[1]
        pairs = [(modality, kind) for modality in catalogue.MODALITIES for kind in catalogue.KINDS]
        known = [catalogue.interpret(instruction, *pair) for pair in pairs]
        assert (axis, block) in known, instruction
        proposed = {wording for pair in pairs for edit in catalogue.edits(*pair) for wording in edit.wordings}
        off_grid += instruction not in proposed
        assert example["prompt"].startswith("Script:\n# data\n") and "\n# validation " in example["prompt"]
        compile(block, "block", "exec")
    assert off_grid > 80  # numbers are copied, not remembered


def test_drawn_numbers_have_every_form_and_stand_in_scripts_too():
    """Whole ones of one to four digits, round ones, decimals with zeros behind the point; no 007."""
    rows = list(islice(corpus.examples(5, coder_share=1.0), 2000))
    shown, edits = zip(*(row["prompt"].rsplit("\nEdit: ", 1) for row in rows), strict=True)
    numbers = {number for edit in edits for number in re.findall(r"\d+(?:\.\d+)?", edit)}
    assert {len(number) for number in numbers if number.isdigit()} == {1, 2, 3, 4}
    assert {"10", "100", "1000"} <= numbers and len(numbers) > 500
    assert any(re.fullmatch(r"0\.0\d", number) for number in numbers)
    assert not [number for number in numbers if re.match(r"0\d", number)]
    depths = {depth for text in shown for depth in re.findall(r"max_depth=(\d+)", text)}
    assert len(depths) > 30  # the catalogue proposes six
    siblings = sum(
        f"({name}=" in text and f"({name}=" in row["completion"]
        for row, text in zip(rows, shown, strict=True)
        for name in ("n_neighbors", "max_depth")
    )
    assert siblings > 15  # the number that the script has is beside the one that is asked for


def test_branches_begin_alike_and_the_first_one_is_the_example(drawn):
    for index in range(20):
        found = corpus.branches(11, index, coder_share=0.5, forbidden=SUITE, number=4)
        assert found[0] == drawn[index] and len(found) == 4
        heads = {row["prompt"].rsplit("\nEdit: ", 1)[0] for row in found}
        assert len(heads) == 1 and len({row["completion"] for row in found}) > 1


def test_a_turn_names_a_fact_of_its_card_that_decides_the_block_and_what_the_block_holds(drawn):
    named, pairs = 0, [(modality, kind) for modality in catalogue.MODALITIES for kind in catalogue.KINDS]
    for row in (row for row in drawn if '"edit_instruction"' in row["completion"]):
        said = parse_action(row["completion"])
        known = (catalogue.interpret(said.arguments["edit_instruction"], *pair) for pair in pairs)
        (axis,) = {found[0] for found in known if found}
        facts = re.search(r"Facts: (.*)\.\n", row["prompt"]).group(1).split("; ")
        deciding = [fact for fact in facts if DECIDES.get(fact) == axis]
        wordings = {
            text.format(Fact=fact.capitalize(), fact=fact, topic=axis)
            for fact in deciding
            for text in replies._sentences()["because"]
        }
        plan = said.fields["Research Plan and Status"]
        assert plan in (wordings or replies._sentences()["plan"][axis])
        named += bool(deciding)
        block = catalogue.read_block(row["prompt"].replace("\n# ", "\n\n# "), axis)
        assert not replies.held(block) or replies.held(block) in said.fields["Thought"]
    assert named > 40


def test_agent_examples_are_actions_on_prompts_of_the_policys_form(drawn):
    names = set()
    for example in (example for example in drawn if example["kind"] == "agent"):
        action = parse_action(example["completion"])
        assert isinstance(action, Action), example["completion"]
        names.add(action.name)
        assert re.fullmatch(
            r"Task: [\w-]+\. \w+, \w+, [\w@]+, (higher|lower) is better\.\n"
            r"Data: \d+ rows, \d+ columns\. Facts: [^\n]+\.\n# data\n.*\n# validation [\w@]+\n"
            r"History:\n.+\nStep \d+ of \d+\.",
            example["prompt"],
            re.DOTALL,
        )
    assert names == set(KNOWN)


ABOUT = "text, label, accuracy, higher is better"


def test_no_task_of_the_suite_is_named_and_none_of_its_words_is_needed(drawn):
    text = json.dumps(drawn)
    assert not [name for name in SUITE if name in text]
    names = {corpus._card("text", ABOUT, [], rng(0, i), SUITE).split(".")[0] for i in range(300)}
    assert len(names) > 250  # many names, so that the format does not hang on familiar ones


def test_forbidden_names_are_drawn_again():
    stream_names = [corpus._card("text", ABOUT, [], rng(0, i), frozenset()) for i in range(50)]
    taken = re.match(r"Task: ([\w-]+)\.", stream_names[7]).group(1)
    again = corpus._card("text", ABOUT, [], rng(0, 7), frozenset({taken}))
    assert f"Task: {taken}." not in again


def test_every_metric_has_a_direction_and_goes_with_its_kind(drawn):
    assert set(corpus._METRICS) == set(catalogue.KINDS)
    for example in (example for example in drawn if example["kind"] == "agent"):
        _, kind, metric, direction = re.match(
            r"Task: [\w-]+\. (\w+), (\w+), ([\w@]+), (\w+)", example["prompt"]
        ).groups()
        assert (metric, direction == "higher") in corpus._METRICS[kind]


def test_the_text_is_frozen(drawn):
    """A model is pretrained on it: who changes the text has to pretrain again, then change this."""
    from hashlib import sha256

    text = [{name: example[name] for name in ("kind", "prompt", "completion")} for example in drawn]
    assert sha256(json.dumps(text).encode()).hexdigest() == (
        "fdde51f468e74bbe5e1e75d9b8e6bf6798940e201be7d50b18524b50e70583b3"
    )
