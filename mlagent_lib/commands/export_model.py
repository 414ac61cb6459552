"""``mlagent export-model``: a trained policy as adapter, merged weights or GGUF, with a model card."""

from __future__ import annotations

import argparse
from typing import Any

HELP = """\
Writes the trained policy into a new folder, with a model card made from the manifests of its run. The run
stays as it is. A run gives its RL adapter; for another one name the folder, e.g. runs/<id>/02_sft/adapter.

  adapter    the LoRA adapter, a few megabytes, checked against the hash in the manifest
  merged     base model and adapter in one, 16 bits a weight; by PEFT, also without a GPU
  gguf       the same for llama.cpp and Ollama; by Unsloth, which needs a GPU, network and a compiler

examples:
  mlagent export-model runs/laptop-seed0 --to adapter --out my-adapter
  mlagent export-model runs/laptop-seed0 --to merged --out my-model
  mlagent export-model runs/gpu-seed0 --to gguf --quantization q4_k_m --out my-gguf"""


def add(commands: Any, plain: type) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export-model", help="adapter, merged weights or GGUF", formatter_class=plain, description=HELP
    )
    parser.add_argument("source", metavar="RUN_OR_ADAPTER", help="folder of a run or of an adapter")
    parser.add_argument("--to", required=True, choices=("adapter", "merged", "gguf"), help="what to write")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--quantization", default="q8_0", help="of gguf: f16, q8_0, q4_k_m, ...; default q8_0"
    )
    parser.set_defaults(call=_export_model)


def _export_model(arguments: argparse.Namespace) -> int:
    from mlagent_lib.run.export_model import export_model

    out = export_model(arguments.source, arguments.to, arguments.out, quantization=arguments.quantization)
    for path in sorted(out.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0
