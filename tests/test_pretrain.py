"""How the pocket model is made: trees cost nothing but the same loss, a killed training ends the same."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mlagent_lib.core.errors import RunError  # noqa: E402
from mlagent_lib.core.files import sha256_file  # noqa: E402
from mlagent_lib.core.profiles import PretrainProfile, get_profile  # noqa: E402
from mlagent_lib.training import pretrain  # noqa: E402
from mlagent_lib.training.backends import POCKET, load_tokenizer  # noqa: E402
from mlagent_lib.training.corpus import branches, examples  # noqa: E402

SMALL = replace(get_profile("smoke").pretrain, measure_examples=2)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(POCKET)


def test_a_tree_has_the_loss_of_its_examples(tokenizer):
    model = pretrain.build_model(SMALL, len(tokenizer)).eval()
    drawn = [branches(3, index, coder_share=0.5, number=3) for index in range(6)]
    trees = [pretrain.tree_of(rows, tokenizer) for rows in drawn]
    total = tokens = 0
    for row in (row for rows in drawn for row in rows):
        only = pretrain.tree_of([row], tokenizer)
        assert only.places == list(range(len(only.ids)))
        head = tokenizer.apply_chat_template(pretrain._asked(row), tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(only.ids) == head + row["completion"] + pretrain.END_TURN
        labels = [-100, *only.targets[:-1]]
        answer = sum(label >= 0 for label in labels)
        ids = torch.tensor([only.ids])
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=torch.tensor([labels])).loss) * answer
        tokens += answer
    with torch.no_grad():
        assert float(pretrain.loss_of(model, trees)) == pytest.approx(total / tokens, abs=1e-5)
    alone = sum(len(pretrain.tree_of([row], tokenizer).ids) for rows in drawn for row in rows)
    assert sum(len(tree.ids) for tree in trees) < 0.7 * alone  # what is shared is computed once


def test_any_batch_is_known_without_those_before_it(tokenizer, monkeypatch):
    monkeypatch.setattr(pretrain, "_SORTED_STEPS", 3)
    whole = list(islice(pretrain.batches(SMALL, tokenizer, frozenset(), 0), 8))
    assert list(islice(pretrain.batches(SMALL, tokenizer, frozenset(), 5), 3)) == whole[5:]
    assert len({tree.ids[0] for trees in whole for tree in trees}) == 1
    assert {len(trees) for trees in whole} == {SMALL.batch}
    drawn = {tuple(tree.ids) for trees in whole[:6] for tree in trees}
    assert len(drawn) == 6 * SMALL.batch  # each tree once


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "_SAVED_STEPS", 2)
    pretrain.main(tmp_path / "whole", SMALL)
    real, calls = pretrain.loss_of, []

    def killed(model, trees):
        calls.append(trees)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(model, trees)

    monkeypatch.setattr(pretrain, "loss_of", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain.main(tmp_path / "torn", SMALL)
    with pytest.raises(RunError, match="of another profile"):
        pretrain.main(tmp_path / "torn", replace(SMALL, lr=0.1))
    measured = pretrain.main(tmp_path / "torn", SMALL)
    assert len(calls) == 6 and measured["steps"] == SMALL.steps  # two of them were saved
    names = ("model.safetensors", "tokenizer.json", "config.json")
    for name in names:
        assert sha256_file(tmp_path / "torn" / name) == sha256_file(tmp_path / "whole" / name)
    assert not list((tmp_path / "torn").glob("checkpoint*"))
    card = (tmp_path / "torn" / "README.md").read_text(encoding="utf-8")
    assert f"{SMALL.steps} steps of {SMALL.batch} scripts or states" in card


def test_matrices_learn_by_muon_and_each_weight_by_one_of_the_two():
    model = pretrain.build_model(SMALL, 512)
    muon, adam = pretrain.optimizers(model, 0.005)
    matrices, others = (learner.param_groups[0]["params"] for learner in (muon, adam))
    assert len(matrices) == 7 * SMALL.layers and all(value.ndim == 2 for value in matrices)
    assert {id(value) for value in (*matrices, *others)} == {id(value) for value in model.parameters()}
    assert len(matrices) + len(others) == len(list(model.parameters()))
    rates = [pretrain._rate(step, 4000) for step in range(4000)]
    assert max(rates) == 1 and rates.index(1) == 199 and 0 < rates[-1] < 0.001


def test_the_shipped_model_writes_the_edits_it_is_asked_for(tmp_path):
    """The figures of the card, measured again on a few fresh examples: numbers are copied, not remembered."""
    measured = json.loads((POCKET / "measured.json").read_text(encoding="utf-8"))
    profile = PretrainProfile()
    assert measured["steps"] == profile.steps and measured["count"] >= 1000
    assert measured["examples"] == profile.steps * profile.batch * profile.branches
    assert min(measured["coder_exact"], measured["coder_exact_other"]) >= 0.99
    pretrain.write_card(tmp_path, profile, measured)
    assert (tmp_path / "README.md").read_bytes() == (POCKET / "README.md").read_bytes()
    found = pretrain.measure(POCKET, 123, count=60)
    assert min(found["coder_exact"], found["coder_exact_other"]) >= 0.95
    assert found["agent_valid"] >= 0.9


def test_replies_are_short_with_the_shipped_tokenizer(tokenizer):
    turns = islice(examples(4, coder_share=0.0), 300)
    lengths = sorted(len(tokenizer(row["completion"])["input_ids"]) for row in turns)
    assert lengths[-1] <= 45 and lengths[150] <= 26
