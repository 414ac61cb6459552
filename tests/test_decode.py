"""The decode loop: the tokens of Transformers' generate, its probabilities, and errors that say why."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mlagent_lib.core.errors import RunError  # noqa: E402
from mlagent_lib.training.backends import load  # noqa: E402
from mlagent_lib.training.backends.decode import (  # noqa: E402
    Decoder,
    _Rows,
    distinct_prompts,
    drawn,
    generated,
    reason_against,
    replies,
)

END, PAD, WORDS = 2, 0, 97


def small(kind: str, **changes):
    """Return a random model of a shape: Qwen2 with biases, Llama with grouped keys and values."""
    shape = {
        "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "pad_token_id": PAD, "eos_token_id": END, "bos_token_id": 1, "initializer_range": 0.3,
    } | changes  # fmt: skip
    made = {
        "qwen2": transformers.Qwen2Config,
        "llama": transformers.LlamaConfig,
        "gpt2": transformers.GPT2Config,
    }
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(made[kind](**shape)).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.3)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=[END, 5], pad_token_id=PAD, bos_token_id=1
    )
    return model


def with_adapter(model):
    from peft import LoraConfig, get_peft_model

    found = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for name, weight in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return found.eval()


def prompts(rows: int = 12, distinct: int = 3, longest: int = 17, alike: int = 7):
    """Return prompts of several lengths, padded on the left, each for several rows, not in order."""
    generator = torch.Generator().manual_seed(1)
    found = torch.randint(6, WORDS, (distinct, longest), generator=generator)
    mask = torch.ones_like(found)
    for row in range(distinct):
        mask[row, : 5 * row] = 0
    if distinct > 1:  # the first and the second begin alike
        found[1, 5 : 5 + alike] = found[0, :alike]
    found = found * mask
    which = torch.arange(rows) % distinct
    return found[which], mask[which]


def ours(model, ids, mask, most=20, temperature=0.0):
    found = replies(model, ids, mask, most=most, temperature=temperature, ends=[END, 5], padding=PAD)
    return torch.nn.functional.pad(found, (0, most - found.size(1)), value=PAD)


def theirs(model, ids, mask, most=20):
    found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False)
    found = found[:, ids.size(1) :]
    return torch.nn.functional.pad(found, (0, most - found.size(1)), value=PAD)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_the_likeliest_tokens_are_those_of_generate(kind, tied):
    model, (ids, mask) = small(kind, tie_word_embeddings=tied), prompts()
    assert ours(model, ids, mask).equal(theirs(model, ids, mask))
    one = ids[:1, :1], mask[:1, :1]  # a single token, a single row
    assert ours(model, *one).equal(theirs(model, *one))


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_an_adapter_counts_where_it_is_on_and_only_there(kind):
    bare = theirs(small(kind), *prompts())
    model = with_adapter(small(kind))
    on = ours(model, *prompts())
    assert on.equal(theirs(model, *prompts())) and not on.equal(bare)
    with model.disable_adapter():
        assert ours(model, *prompts()).equal(bare)
    assert ours(model, *prompts()).equal(on)  # and the call has left the weights as they were


def test_the_logits_are_those_of_the_model_also_after_rows_have_ended():
    model, (ids, mask) = small("llama"), prompts(rows=9)
    found, which = distinct_prompts(ids, mask)
    with torch.inference_mode():
        decoder = Decoder(model)
        hidden, kept = decoder.read(found)
        rows, texts, masks = _Rows(decoder, kept, list(map(len, found)), which, 8), ids, mask
        assert (
            decoder.logits(hidden)[which] - model(ids, attention_mask=mask).logits[:, -1]
        ).abs().max() < 1e-4
        for step in range(8):
            tokens = torch.arange(len(texts)) + 7 * step + 6
            texts = torch.cat([texts, tokens[:, None]], dim=1)
            masks = torch.cat([masks, torch.ones(len(texts), 1, dtype=masks.dtype)], dim=1)
            positions = (masks.cumsum(dim=1) - 1).clamp(min=0)
            want = model(texts, attention_mask=masks, position_ids=positions).logits[:, -1]
            assert (rows.advance(tokens) - want).abs().max() < 1e-4, step
            if step in (2, 5):  # rows end, at last all of one prompt
                alive = torch.arange(len(texts)) % 3 != (0 if step == 5 else 3)
                alive[1] = False
                rows.keep(alive)
                texts, masks = texts[alive], masks[alive]


def test_a_reply_ends_at_each_of_the_end_tokens_and_pads_behind_it():
    model = small("qwen2")
    found = ours(model, *prompts(rows=60), most=40, temperature=3.0)
    ended = [(row == END) | (row == 5) for row in found]
    assert any(bool(row.any()) for row in ended)
    for tokens, ends in zip(found, ended, strict=True):
        if ends.any():
            assert (tokens[int(ends.int().argmax()) + 1 :] == PAD).all()


def test_tokens_are_drawn_by_their_probabilities():
    torch.manual_seed(3)
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, float("-inf")])
    for temperature in (0.5, 1.0, 2.0):
        wanted = (logits / temperature).softmax(dim=0)
        found = torch.bincount(drawn(logits.repeat(40_000, 1), temperature), minlength=5) / 40_000
        assert (found - wanted).abs().max() < 0.012 and found[4] == 0  # five standard deviations
    assert drawn(logits[None], 0.0).item() == 2


def test_the_first_sampled_tokens_follow_the_models_probabilities():
    model, (ids, mask) = small("qwen2", initializer_range=0.1), prompts(rows=1, distinct=1)
    torch.manual_seed(4)
    found = ours(model, ids.repeat(6000, 1), mask.repeat(6000, 1), most=2, temperature=1.3)
    with torch.inference_mode():
        wanted = (model(ids, attention_mask=mask).logits[0, -1] / 1.3).softmax(dim=0)
    counts = torch.bincount(found[:, 0], minlength=WORDS)
    statistic = float(((counts - 6000 * wanted) ** 2 / (6000 * wanted)).sum())
    assert statistic < 96 + 5 * (2 * 96) ** 0.5  # chi-square with 96 degrees of freedom, five deviations


def test_the_same_seed_draws_the_same_replies():
    model = small("llama")
    first, again, other = (
        (torch.manual_seed(seed), ours(model, *prompts(), temperature=1.0))[1] for seed in (0, 0, 1)
    )
    assert first.equal(again) and not first.equal(other)


def test_a_full_window_is_an_error():
    model, (ids, mask) = small("qwen2", max_position_embeddings=20), prompts(rows=1, distinct=1)
    model.generation_config.eos_token_id = END
    with pytest.raises(
        RunError, match=r"a prompt and its reply take 21 tokens, and the model has 20 positions"
    ):
        replies(model, ids, mask, most=30, temperature=0.0, ends=[-1], padding=PAD)
    with pytest.raises(RunError, match="take 24 tokens, and the model has 20"):
        replies(model, torch.ones(1, 24, dtype=torch.long), torch.ones(1, 24), most=1, temperature=0.0,
                ends=[END], padding=PAD)  # fmt: skip


def test_other_models_and_other_wishes_are_left_to_generate():
    assert reason_against(small("qwen2")) == "" == reason_against(with_adapter(small("llama")))
    assert reason_against(small("gpt2")) == "its architecture is gpt2, not qwen2 or llama"
    assert "float16 on cpu" in reason_against(small("llama").half())
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert "scaled (linear)" in reason_against(small("llama", rope_parameters=scaled))
    model, (ids, mask) = small("qwen2"), prompts()
    sampled = {"do_sample": True, "max_new_tokens": 3}
    assert generated(model, ids, mask, **sampled, top_k=0) is not None
    for wish in ({"top_k": 5}, {}, {"top_k": 0, "top_p": 0.9}, {"top_k": 0, "repetition_penalty": 1.2}):
        assert generated(model, ids, mask, **sampled, **wish) is None
    assert generated(model, ids, mask, max_new_tokens=3, num_beams=2) is None
    assert generated(model, None, None, max_new_tokens=3) is None


def test_the_plain_backend_samples_by_it(monkeypatch):
    backend = load("pocket", backend="plain")
    asked = []
    import mlagent_lib.training.backends.prefix as prefix

    real = prefix.generated

    def watched(*words, **options):
        found = real(*words, **options)
        asked.append(found is not None)
        return found

    monkeypatch.setattr(prefix, "generated", watched)
    talk = [[{"role": "user", "content": f"Task {number}"}] for number in (1, 2, 1)]
    plain = backend.generate(talk, temperature=0, max_new_tokens=12)
    assert asked == [True] and len(plain) == 3 and plain[0] == plain[2]
    monkeypatch.setattr(prefix, "generated", lambda *words, **options: None)
    assert backend.generate(talk, temperature=0, max_new_tokens=12) == plain


def test_in_bfloat16_the_logits_are_those_of_the_model_and_a_small_adapter_is_not_lost():
    model, (ids, mask) = with_adapter(small("llama", hidden_size=64)).to(torch.bfloat16), prompts(alike=0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
    assert reason_against(model) == ""
    whole = with_adapter(small("llama", hidden_size=64))
    whole.load_state_dict({name: weight.float() for name, weight in model.state_dict().items()})
    found, which = distinct_prompts(ids, mask)
    with torch.inference_mode():
        decoder = Decoder(model)
        ours, exact = decoder.logits(decoder.read(found)[0])[which], whole(ids, attention_mask=mask)
        theirs = model(ids, attention_mask=mask).logits[:, -1].float()
        exact = exact.logits[:, -1]
        assert ours.dtype == torch.float32
        assert (ours - exact).abs().mean() < (theirs - exact).abs().mean()  # closer than Transformers'
        for module in model.modules():  # smaller than half a step of any weight
            if isinstance(getattr(module, "scaling", None), dict):
                module.scaling["default"] *= 1e-4
        decoder = Decoder(model)
        little = decoder.logits(decoder.read(found)[0])[which]
        with model.disable_adapter():
            decoder = Decoder(model)
        assert not little.equal(decoder.logits(decoder.read(found)[0])[which])


def test_a_layer_without_an_adapter_is_itself():
    from mlagent_lib.training.backends.decode import flat

    layer = torch.nn.Linear(3, 2)
    assert flat(layer).weight is layer.weight and flat(layer).low is None
    inputs = torch.randn(4, 3)
    assert flat(layer)(inputs).equal(layer(inputs))
    assert flat(torch.nn.Linear(3, 2, bias=False)).bias is None
