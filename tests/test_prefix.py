"""A prompt that a group shares is read once, and nothing else changes: values, gradients, replies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pocket_parts import write_adapter
from tiny_task import make_tools, write_task

torch = pytest.importorskip("torch")

from mlagent_lib.core.profiles import GRPOProfile
from mlagent_lib.training.backends import load, prefix
from mlagent_lib.training.backends.prefix import completion_parts, distinct_rows, in_order, share_prefixes
from mlagent_lib.training.grpo import _trainer, grpo_settings
from mlagent_lib.training.scoring import StepReward
from mlagent_lib.training.trainer import StepTrainer

CLOSE = 1e-4
PROMPTS = (5, 17, 11)  # tokens
ORDER = (2, 0, 1, 0, 0, 2, 1)  # which prompt each row has: groups out of order and of unequal size
LENGTHS = (3, 6, 1, 4, 6, 2, 5)  # tokens of the completions


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Let a part be of three rows, so that the few rows here are read in several."""
    monkeypatch.setattr(prefix, "PART_ROWS", 3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Return the pocket model with an adapter that changes what it says."""
    adapter = write_adapter(tmp_path_factory.mktemp("adapter"), moved=0.05)
    return load("pocket", backend="plain", adapter=adapter, trainable=True)


def logits_of(model, ids, mask, keep):
    """Return the logits that predict each completion token, shape (rows, keep, vocabulary)."""
    return in_order(completion_parts(model, ids, mask, keep), keep)


@pytest.fixture(scope="module")
def batch(loaded):
    """Return ids, mask and columns of the completions of seven rows with three prompts."""
    stream, pad = torch.Generator().manual_seed(1), loaded.tokenizer.pad_token_id
    size = loaded.model.config.vocab_size

    def tokens(count):
        return torch.randint(10, size, (count,), generator=stream)

    prompts, keep = [tokens(length) for length in PROMPTS], max(LENGTHS)
    width = max(PROMPTS) + keep
    ids, mask = torch.full((len(ORDER), width), pad), torch.zeros((len(ORDER), width), dtype=torch.long)
    for row, (which, length) in enumerate(zip(ORDER, LENGTHS, strict=True)):
        first, middle = max(PROMPTS) - PROMPTS[which], max(PROMPTS)
        ids[row, first:middle], ids[row, middle : middle + length] = prompts[which], tokens(length)
        mask[row, first : middle + length] = 1
    return ids, mask, keep


@pytest.fixture
def read(loaded):
    """Return the list of shapes (rows, tokens) that the model reads while a test runs."""
    shapes = []
    embeddings = loaded.model.get_input_embeddings()
    hook = embeddings.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    yield shapes
    hook.remove()


def test_rows_are_distinct_by_tokens_and_mask():
    ids = torch.tensor([[5, 6], [0, 6], [5, 6], [0, 6]])
    mask = torch.tensor([[1, 1], [0, 1], [1, 1], [1, 1]])  # the last begins with a real token 0
    found, found_mask, which = distinct_rows(ids, mask)
    assert len(found) == 3 and which[0] == which[2] and len(set(which.tolist())) == 3
    assert found[which].equal(ids) and found_mask[which].equal(mask)


def test_logits_are_those_of_the_plain_forward_and_each_prompt_is_read_once(loaded, batch, read):
    ids, mask, keep = batch
    with torch.no_grad():
        ours = logits_of(loaded.model, ids, mask, keep)
        assert read == [(3, 17), (3, 3), (3, 6), (1, 6)]  # prompts, then completions by their length
        plain = loaded.model(input_ids=ids, attention_mask=mask).logits[:, -keep - 1 : -1]
    real = mask[:, -keep:].bool()
    assert ours.shape == plain.shape and int(real.sum()) == sum(LENGTHS)
    assert plain[real].abs().max() > 1.0
    assert (ours - plain)[real].abs().max() < CLOSE


def gradients(model, logits, ids, mask, keep) -> dict:
    """Return the gradient of each weight of the adapter for the likelihood of the completions."""
    model.zero_grad()
    labels, real = ids[:, -keep:], mask[:, -keep:]
    values = torch.log_softmax(logits, dim=-1).gather(2, labels[..., None])[..., 0]
    weights = torch.linspace(-1.0, 1.0, len(ids))[:, None]  # each row its own advantage
    ((values * weights * real).sum() / real.sum()).backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()
    return found


def test_gradients_flow_through_the_shared_prompt_as_through_seven_copies(loaded, batch):
    ids, mask, keep = batch
    model = loaded.model
    ours = gradients(model, logits_of(model, ids, mask, keep), ids, mask, keep)
    plain_logits = model(input_ids=ids, attention_mask=mask).logits[:, -keep - 1 : -1]
    plain = gradients(model, plain_logits, ids, mask, keep)
    assert ours.keys() == plain.keys() and all("lora" in name for name in ours)
    assert max(float(gradient.abs().max()) for gradient in plain.values()) > 1e-2
    for name, gradient in plain.items():
        assert (ours[name] - gradient).abs().max() < CLOSE, name


def test_the_rows_of_one_group_without_padding(loaded, batch):
    ids, mask, keep = batch
    same = [row for row, which in enumerate(ORDER) if which == 1]  # the longest prompt: no padding at all
    with torch.no_grad():
        ours = logits_of(loaded.model, ids[same], mask[same], keep)
        plain = loaded.model(input_ids=ids[same], attention_mask=mask[same]).logits[:, -keep - 1 : -1]
    real = mask[same][:, -keep:].bool()
    assert (ours - plain)[real].abs().max() < CLOSE


def test_columns_that_are_padding_in_all_prompts_are_not_read(loaded, batch, read):
    ids, mask, keep = batch
    wide, wide_mask = (torch.nn.functional.pad(part, (40, 0)) for part in (ids, mask))
    with torch.no_grad():
        ours = logits_of(loaded.model, wide, wide_mask, keep)
        assert read[0] == (3, 32)  # 17 of 57 are needed: the next multiple of 16
        plain = logits_of(loaded.model, ids, mask, keep)
    real = mask[:, -keep:].bool()
    assert ours.shape == plain.shape and (ours - plain)[real].abs().max() < CLOSE


def test_micro_batches_hold_whole_groups_again_after_they_were_shuffled():
    class Shuffles:
        def _prepare_inputs(self, batch):
            if self._buffered_inputs is None:
                order = torch.tensor([5, 0, 3, 6, 1, 7, 2, 4])
                parts = [{name: value[rows] for name, value in batch.items()} for rows in order.split(4)]
                self._buffered_inputs = [part | {"num_items_in_batch": torch.tensor(8)} for part in parts]
            return self._buffered_inputs[self._step % 2]

    class Trainer(StepTrainer, Shuffles):
        shares_prompts, _buffered_inputs, _step = True, None, 0

    prompts, rows = torch.tensor([[9, 1]] * 4 + [[0, 1]] * 4), torch.arange(8)
    batch = {"prompt_ids": prompts, "prompt_mask": (prompts > 0).long(), "advantages": rows}
    trainer, seen = Trainer(), []
    for trainer._step in range(4):  # the second pass reads the same parts
        part = trainer._prepare_inputs(batch)
        assert len(part["prompt_ids"].unique(dim=0)) == 1 and part["num_items_in_batch"] == 8
        assert part["prompt_ids"].equal(prompts[part["advantages"]])
        seen += part["advantages"].tolist()
    assert sorted(seen[:8]) == rows.tolist() and seen[:8] == seen[8:]


@pytest.fixture(scope="module")
def trainer(loaded, tmp_path_factory):
    from transformers import TrainerCallback

    tmp_path = tmp_path_factory.mktemp("trainer")
    write_task(tmp_path / "tasks")
    reward = StepReward({}, make_tools(tmp_path), form="v1", group_size=2)
    profile = GRPOProfile(steps=1, states_per_step=1, group_size=2, temperature=0.7, checkpointing=False)
    wanted = grpo_settings(loaded, profile, out=tmp_path, seed=0)
    rows = [{"prompt": [{"role": "user", "content": "x"}], "state_id": "s", "task": "t"}]
    recorder = TrainerCallback()
    recorder.reward = reward
    return _trainer(loaded, wanted, recorder, rows, 0)


def test_an_entropy_bonus_reaches_the_weights_and_costs_nothing_where_there_is_none(trainer, batch):
    ids, mask, keep = batch
    for bonus in (False, True):
        trainer._entropy_bonus_enabled = bonus
        _, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, keep, compute_entropy=True
        )
        assert entropies.requires_grad is bonus
    trainer.model.zero_grad()
    entropies.mean().backward()
    moved = [name for name, weight in trainer.model.named_parameters() if weight.grad is not None]
    assert moved and all("lora" in name for name in moved)
    assert (
        max(float(weight.grad.abs().max()) for weight in trainer.model.parameters() if weight.requires_grad)
        > 0
    )


def test_trl_computes_the_same_from_every_row_for_itself(trainer, batch, read):
    from trl import GRPOTrainer

    ids, mask, keep = batch
    read.clear()
    with torch.no_grad():
        options = {"compute_entropy": True, "batch_size": 4}
        ours = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, keep, **options)
        # four rows at once (2, 0, 1, 0), the longest completion for itself; then three (0, 2, 1)
        assert read == [(3, 17), (3, 4), (1, 6), (3, 17), (3, 6)]
        read.clear()
        theirs = GRPOTrainer._get_per_token_logps_and_entropies(
            trainer, trainer.model, ids, mask, keep, **options
        )
        assert read == [(4, 23), (3, 23)]
    real = mask[:, -keep:].bool()
    for own, other in zip(ours[:2], theirs[:2], strict=True):
        assert own.shape == other.shape and (own - other)[real].abs().max() < CLOSE


# Sampling ---------------------------------------------------------------------------------------------------


def written(model, ids, mask, *, plain: bool):
    generate = type(model).generate.__get__(model) if plain else model.generate
    with torch.no_grad():
        return generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        ((0, 0, 0, 0), (1, 16)),  # one prompt of a group: read once, but for its last token
        ((2, 0, 2, 0, 0), (2, 16)),
        ((0, 1, 2, 0), (4, 17)),  # too few are equal: as it was
        ((1,), (1, 17)),
        ((0, 1), (2, 17)),
    ],
)
def test_likeliest_replies_are_the_same_with_prompts_read_once(loaded, batch, read, rows, first, monkeypatch):
    monkeypatch.setattr(
        "mlagent_lib.training.backends.prefix.generated", lambda *words, **options: None
    )  # as on a GPU
    ids, mask, _ = batch
    starts = [ORDER.index(row) for row in rows]
    ids, mask = ids[starts, : max(PROMPTS)], mask[starts, : max(PROMPTS)]
    shared = written(loaded.model, ids, mask, plain=False)
    assert read[0] == first and (first[1] == 17 or read[1] == (len(rows), 1))
    assert shared.equal(written(loaded.model, ids, mask, plain=True))
    assert shared.shape[1] > max(PROMPTS)


def test_prompts_of_one_token(loaded):
    ids, mask = torch.full((4, 1), 20), torch.ones((4, 1), dtype=torch.long)
    assert written(loaded.model, ids, mask, plain=False).equal(written(loaded.model, ids, mask, plain=True))


def test_other_ways_to_call_generate_are_left_alone():
    calls = []
    model = SimpleNamespace(generate=lambda *words, **options: calls.append((words, options)))
    share_prefixes(model)
    model.generate("positional", input_ids=None, attention_mask=None)
    model.generate(input_ids=torch.ones(4, 3), attention_mask=None)
    assert [words for words, _ in calls] == [("positional",), ()]
    assert all("past_key_values" not in options for _, options in calls)
