"""A trained policy as files for others: the same weights, a card made of records, nothing half written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlagent_lib import cli
from mlagent_lib.core.artifacts import Stage, hashes_below
from mlagent_lib.core.errors import MlagentError, RunError
from mlagent_lib.core.files import sha256_file
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.run import agent
from mlagent_lib.run import export_model as module
from mlagent_lib.run.export_model import UNKNOWN, Origin, export_model, model_card, origin_of
from mlagent_lib.training.backends import POCKET

WARNING = (
    "Load the tokenizer with `PreTrainedTokenizerFast.from_pretrained`: `AutoTokenizer` of Transformers 5 "
    "would replace its splitting rules by Qwen's."
)
OVERALL = """\
policy,split,tasks,trajectories,seeds,unscored,gain_pct,gain_low,gain_high,gap_closed,gap_low,gap_high
starter,held-in,9,36,1,0,-0.00001,-0.00001,-0.00001,0,0,0
sft,held-in,9,36,1,0,1.5,1.0,2.0,0.111,0.1,0.2
rl,held-in,9,36,1,0,15.72,15.6,15.8,0.425,0.42,0.43
"""


def write_adapter(folder: Path, base: str) -> None:
    """Write an adapter of the pocket model that changes what it says."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from mlagent_lib.training.backends import lora_config

    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(POCKET), lora_config(4, 8))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return the folder of a run, made by the stages themselves, with an adapter of random numbers."""
    run = tmp_path_factory.mktemp("runs") / "laptop-seed7"
    params, profile = {"profile": "laptop", "seed": 7}, get_profile("laptop")
    with Stage(run, "01_collection", params=params, profile=profile) as stage:
        stage.path("trajectories.jsonl").write_text("{}\n")
        stage.summary = {"trajectories": 126, "expert": "openai:big@http://host.example/v1"}
    with Stage(run, "03_grpo", params=params, profile=profile) as stage:
        stage.read("01_collection/trajectories.jsonl")
        write_adapter(stage.path("adapter"), str(POCKET))
    with Stage(run, "04_evaluation", params=params, profile=profile) as stage:
        stage.read("03_grpo/adapter/adapter_model.safetensors")
        stage.path("overall.csv").write_text(OVERALL)
    return run


@pytest.fixture
def run(made, tmp_path):
    """Return a copy of the run, to do harm to."""
    return shutil.copytree(made, tmp_path / "laptop-seed7")


def texts(folder: Path) -> str:
    """Return everything in a folder that can be read."""
    return "\n".join(
        path.read_text() for path in folder.iterdir() if path.suffix in (".md", ".json", ".jinja")
    )


# Adapter and card ------------------------------------------------------------------------------------------


def test_an_exported_adapter_is_the_same_and_can_act(run, tmp_path):
    before = hashes_below(run)
    out = export_model(run, "adapter", tmp_path / "my-adapter")
    source = run / "03_grpo" / "adapter" / "adapter_model.safetensors"
    assert sha256_file(out / "adapter_model.safetensors") == sha256_file(source)
    assert hashes_below(run) == before
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "training_manifest.json",
    ]  # fmt: skip
    assert str(POCKET) not in texts(out) and str(tmp_path) not in texts(out)
    plan = agent.agent_spec(str(out), get_profile("laptop"))  # `mlagent agent --policy my-adapter`
    assert plan.adapter == out
    assert json.loads((out / "training_manifest.json").read_text())["stage"] == "03_grpo"


def test_the_card_says_where_the_model_comes_from(run, tmp_path):
    card = (export_model(run, "adapter", tmp_path / "out") / "README.md").read_text()
    manifest = json.loads((run / "03_grpo" / "manifest.json").read_text())
    data = sha256_file(run / "01_collection" / "trajectories.jsonl")
    for line in (
        "| base model | pocket (its card is in the kit: training/pocket_model/README.md) |",
        "| training | SFT, then step-wise GRPO |",
        "| settings | 40 steps of 32 states and 4 actions each, learning rate 0.004, KL 0.05, reward gain |",
        f"| data | 126 expert trajectories (tasks: held-in; expert: openai:big), sha256 {data} |",
        "| profile, seed | laptop, 7 |",
        f"| machine | {manifest['device']} |",
        "| rl | 9 held-in | 36 | 0.425 [0.420, 0.430] | 15.7 % [15.6, 15.8] |",
        "| starter | 9 held-in | 36 | 0.000 [0.000, 0.000] | 0.0 % [0.0, 0.0] |",
        "- A didactic stand-in: outside the edit catalogue of the pocket suite it knows nothing.",
        f"- {WARNING}",
    ):
        assert line in card.splitlines(), line
    assert f"torch {manifest['versions']['torch']}" in card and manifest["package"] in card
    if manifest["git"]:
        assert manifest["git"]["commit"] in card
    assert "| sft |" not in card and "host.example" not in card and "base_model:" not in card
    assert card.startswith("---\nlibrary_name: peft\n")


def test_results_are_claimed_only_for_the_adapter_that_was_evaluated(run, tmp_path):
    (run / "04_evaluation" / "overall.csv").write_text(OVERALL + "rl,all,19,1,1,0,1,1,1,1,1,1\n")
    card = (export_model(run, "adapter", tmp_path / "changed") / "README.md").read_text()
    assert "no number is claimed" in card and "0.425" not in card
    shutil.rmtree(run / "04_evaluation")
    assert not origin_of(run / "03_grpo" / "adapter").results


def test_a_card_shows_no_interval_that_is_not_known():
    row = {
        "policy": "rl",
        "split": "held-in",
        "tasks": 2,
        "trajectories": 2,
        "gap_closed": 0.5,
        "gain_pct": -1.25,
    }
    lost = dict.fromkeys(("gap_low", "gap_high", "gain_low", "gain_high"), float("nan"))

    def lines(row):
        return model_card(Origin("org/model", 4, 8, "ab", results=[row]), "adapter").splitlines()

    assert "| rl | 2 held-in | 2 | 0.500 | -1.2 % |" in lines(row | lost)
    known = {"gap_low": 0.25, "gap_high": 0.75, "gain_low": -2.0, "gain_high": 0.0}
    assert "| rl | 2 held-in | 2 | 0.500 [0.250, 0.750] | -1.2 % [-2.0, 0.0] |" in lines(row | known)


def test_an_adapter_without_records_is_exported_and_its_card_says_so(run, tmp_path):
    alone = shutil.copytree(run / "03_grpo" / "adapter", tmp_path / "somewhere" / "adapter")
    out = export_model(alone, "adapter", tmp_path / "out")
    card = (out / "README.md").read_text()
    assert UNKNOWN in card and "no number is claimed" in card and "rank 4, alpha 8" in card
    assert not (out / "training_manifest.json").exists()


def test_a_public_base_model_is_named_in_the_header(run, tmp_path):
    adapter = run / "03_grpo" / "adapter"
    alone = shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((alone / "adapter_config.json").read_text())
    name = "Qwen/Qwen2.5-7B-Instruct"
    (alone / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))
    out = export_model(alone, "adapter", tmp_path / "out")
    assert f"\nbase_model: {name}\n" in (out / "README.md").read_text()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == name


# Merged ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_merged_model_says_what_base_and_adapter_say(run, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    from mlagent_lib.training.backends import load, load_tokenizer

    adapter = shutil.copytree(run / "03_grpo" / "adapter", tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    # twice what so short a training learned: 16 bits cost the base weights as much whatever the adapter does
    doubled = {name: value * (1 + ("lora_B" in name)) for name, value in load_file(weights).items()}
    save_file(doubled, weights, metadata={"format": "pt"})
    out = export_model(adapter, "merged", tmp_path / "merged")
    loaded = load("pocket", backend="plain", adapter=adapter)
    merged = AutoModelForCausalLM.from_pretrained(out)
    assert merged.dtype == torch.bfloat16 and not list(out.glob("adapter*"))
    ids = load_tokenizer(str(out))("# model\nfrom sklearn", return_tensors="pt").input_ids
    assert torch.equal(ids, loaded.tokenizer("# model\nfrom sklearn", return_tensors="pt").input_ids)
    with torch.no_grad():
        on, merged_logits = loaded.model(ids).logits, merged.float()(ids).logits
        with loaded.base():
            off = loaded.model(ids).logits
    rounding, effect = (on - merged_logits).abs().max(), (on - off).abs().max()
    assert effect > 20 * rounding  # what 16 bits cost is small beside what the adapter does
    assert torch.allclose(on, merged_logits, atol=0.05 * float(on.abs().max()))
    assert "library_name: transformers" in (out / "README.md").read_text()
    assert str(POCKET) not in texts(out) and WARNING in (out / "README.md").read_text()


def test_the_card_warns_of_auto_tokenizer_wherever_a_tokenizer_of_its_own_may_be():
    shipped = (POCKET / "README.md").read_text()
    assert WARNING in shipped.replace("\n", " ")  # the same words
    public = Origin("org/model", 4, 8, "ab")
    assert "PreTrainedTokenizerFast" not in model_card(public, "adapter")
    assert "PreTrainedTokenizerFast" not in model_card(public, "gguf")
    assert "by those of the architecture, where these are others." in model_card(public, "merged")
    assert WARNING in model_card(Origin("pocket_model", 4, 8, "ab"), "merged")


# GGUF ------------------------------------------------------------------------------------------------------


@pytest.fixture
def public(run, tmp_path):
    """Return an adapter of a public base model."""
    folder = shutil.copytree(run / "03_grpo" / "adapter", tmp_path / "public")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct"})
    )
    return folder


def test_gguf_of_the_pocket_model_is_refused_with_the_reason(run, tmp_path):
    with pytest.raises(RunError, match="llama.cpp does not know its tokenizer.*--to merged"):
        export_model(run, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_gguf_where_neither_unsloth_nor_the_writer_can_run_is_refused_before_anything_is_loaded(
    public, tmp_path, monkeypatch
):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec",
        lambda name, *rest: None if name in ("unsloth", "gguf") else real(name, *rest),
    )  # fmt: skip
    with pytest.raises(MlagentError, match=r"package gguf, which is not installed.*\[gguf\]"):
        export_model(public, "gguf", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["laptop-seed7", "public"]


def fake_unsloth(monkeypatch, files):
    """Let Unsloth write files of these names, beside the folder that it is given, as it does."""
    asked = {}

    def save(folder, tokenizer, quantization_method):
        asked.update(tokenizer=tokenizer, quantization=quantization_method)
        beside = Path(f"{folder}_gguf")
        beside.mkdir(parents=True)
        for name in files:
            (beside / name).write_bytes(b"GGUF")
        return {"gguf_files": [str(beside / name) for name in files]}

    def load(name, *, backend, adapter):
        asked.update(name=name, backend=backend, adapter=adapter)
        return SimpleNamespace(model=SimpleNamespace(save_pretrained_gguf=save), tokenizer="tokenizer")

    monkeypatch.setattr("mlagent_lib.training.backends.load", load)
    monkeypatch.setattr("mlagent_lib.training.backends.choose", lambda name: name)
    return asked


def test_gguf_files_end_in_the_folder_with_their_card(public, tmp_path, monkeypatch, capsys):
    asked = fake_unsloth(monkeypatch, ["model.Q4_K_M.gguf"])
    out = tmp_path / "out"
    words = ["export-model", str(public), "--to", "gguf", "--quantization", "q4_k_m", "--out", str(out)]
    assert cli.main(words) == 0
    assert (out / "model.Q4_K_M.gguf").read_bytes() == b"GGUF"
    assert "library_name: llama.cpp" in (out / "README.md").read_text()
    assert asked == {
        "tokenizer": "tokenizer", "quantization": "q4_k_m", "name": "Qwen/Qwen2.5-0.5B-Instruct",
        "backend": "unsloth", "adapter": public.absolute(),
    }  # fmt: skip
    assert "model.Q4_K_M.gguf  4 bytes" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["laptop-seed7", "out", "public"]


def test_no_gguf_file_is_an_error_and_leaves_nothing(public, tmp_path, monkeypatch):
    fake_unsloth(monkeypatch, [])
    with pytest.raises(RunError, match="wrote no GGUF file"):
        export_model(public, "gguf", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["laptop-seed7", "public"]


# What is refused -------------------------------------------------------------------------------------------


def test_a_damaged_adapter_is_refused(run, tmp_path):
    weights = run / "03_grpo" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="is not what the run wrote.*another copy"):
        export_model(run, "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_copy_that_goes_wrong_is_found_and_removed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "copyfile", lambda source, target: Path(target).write_bytes(b"half"))
    with pytest.raises(RunError, match="the copy of .* is damaged"):
        export_model(run, "adapter", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["laptop-seed7"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "adapter_config.json").write_text("{}"),
            "no configuration of a LoRA adapter",
        ),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"r": 1, "lora_alpha": 1}'),
            "base model is",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "holds neither an adapter"),
    ],
)
def test_half_an_adapter_is_refused(run, tmp_path, change, message):
    folder = shutil.copytree(run / "03_grpo" / "adapter", tmp_path / "adapter")
    change(folder)
    with pytest.raises(RunError, match=message):
        export_model(folder, "adapter", tmp_path / "out")


def test_the_command_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["export-model", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "mlagent export-model runs/laptop-seed0 --to adapter" in text


def test_wrong_words_get_one_line_with_the_cure(run, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for source, out, message in (
        (str(run), str(tmp_path / "there"), "exists already"),
        (str(tmp_path / "nothing"), str(tmp_path / "out"), "is no folder"),
        (str(tmp_path / "there"), str(tmp_path / "out"), "holds neither an adapter"),
    ):
        assert cli.main(["export-model", source, "--to", "adapter", "--out", out]) == 2
        err = capsys.readouterr().err
        assert message in err and "What to do:" in err and err.count("\n") == 1
    with pytest.raises(RunError, match="export to 'onnx' is unknown"):
        export_model(run, "onnx", tmp_path / "out")
