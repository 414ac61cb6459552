"""The edit catalogue: enough edits on each axis, each understood in every wording, each a piece of Python."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlagent_lib.tasks.pocket import catalogue

PAIRS = [(modality, kind) for modality in catalogue.MODALITIES for kind in catalogue.KINDS]
SCRIPT = "import x\n\n# data\na = 1\n\n# model\nb = 2\nb2 = 3\n\n# learning\nc = 4\n\nprint(c)\n"


@pytest.mark.parametrize(("modality", "kind"), PAIRS)
def test_there_are_enough_edits_with_names_of_their_own(modality, kind):
    found = catalogue.edits(modality, kind)
    assert len(found) >= 100
    for axis in catalogue.AXES:
        assert sum(edit.axis == axis for edit in found) >= 20
    assert len({edit.key for edit in found}) == len(found)
    assert all(edit.key.startswith(edit.axis + "/") for edit in found)
    assert all(edit.wordings[0] == edit.instruction for edit in found)


@pytest.mark.parametrize(("modality", "kind"), PAIRS)
def test_every_wording_is_understood_as_its_own_edit(modality, kind):
    for edit in catalogue.edits(modality, kind):
        for wording in edit.wordings:
            for spelt in (wording, wording.upper(), f"  {wording.rstrip('.')}\n"):
                assert catalogue.interpret(spelt, modality, kind) == (edit.axis, edit.block), wording


@pytest.mark.parametrize(("modality", "kind"), PAIRS)
def test_every_block_is_python_that_defines_its_name_and_fits_between_blank_lines(modality, kind):
    wanted = {"data": "prepare", "model": "model", "learning": "learner"}
    for edit in catalogue.edits(modality, kind):
        names = {
            target.id
            for node in ast.walk(ast.parse(edit.block))
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert wanted[edit.axis] in names, edit.key
        assert "\n\n" not in edit.block and edit.block == edit.block.strip("\n")
        assert "{Kind}" not in edit.block and "{" not in edit.instruction


def test_numbers_off_the_grid_are_understood_and_other_texts_are_not():
    axis, block = catalogue.interpret("Use 37 nearest neighbours.", "tabular", "label")
    assert axis == "model" and "KNeighborsClassifier(n_neighbors=37)" in block
    for text in ("", "Use many nearest neighbours.", "Use 3 nearest neighbours. And scale.", "x" * 10_000):
        assert catalogue.interpret(text, "tabular", "label") is None


def test_classification_decides_between_the_two_kinds_of_models():
    instruction = "Use 5 nearest neighbours."
    for kind in catalogue.KINDS:
        block = catalogue.interpret(instruction, "tabular", kind)[1]
        assert ("Classifier" in block) == catalogue.is_classification(kind)
        assert ("Regressor" in block) != catalogue.is_classification(kind)


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="sound"):
        catalogue.edits("sound", "label")
    with pytest.raises(ValueError, match="ordering"):
        catalogue.edits("tabular", "ordering")


def test_blocks_are_read_and_replaced_where_they_stand():
    assert [catalogue.read_block(SCRIPT, axis) for axis in catalogue.AXES] == [
        "a = 1",
        "b = 2\nb2 = 3",
        "c = 4",
    ]
    replaced = catalogue.replace_block(SCRIPT, "model", "b = 9\n")
    assert replaced == SCRIPT.replace("b = 2\nb2 = 3", "b = 9")
    assert catalogue.read_block("# model\nb = 1\n", "model") == "b = 1"  # the last block needs no blank line
    assert catalogue.replace_block("# model\nb = 1\n", "model", "b = 2") == "# model\nb = 2\n"


@given(st.sampled_from(catalogue.AXES), st.sampled_from(catalogue.edits("image", "label")))
def test_replacing_one_block_leaves_the_others(axis, edit):
    script = catalogue.replace_block(SCRIPT, axis, edit.block)
    assert catalogue.read_block(script, axis) == edit.block
    for other in set(catalogue.AXES) - {axis}:
        assert catalogue.read_block(script, other) == catalogue.read_block(SCRIPT, other)
    assert catalogue.replace_block(script, axis, catalogue.read_block(SCRIPT, axis)) == SCRIPT


@pytest.mark.parametrize("axis", catalogue.AXES)
def test_a_missing_header_is_named(axis):
    for script in ("", SCRIPT.replace(f"# {axis}\n", ""), SCRIPT.replace(f"# {axis}\n", f"# {axis} block\n")):
        with pytest.raises(ValueError, match=f"no block '# {axis}'"):
            catalogue.read_block(script, axis)
        with pytest.raises(ValueError, match=f"no block '# {axis}'"):
            catalogue.replace_block(script, axis, "x = 1")
