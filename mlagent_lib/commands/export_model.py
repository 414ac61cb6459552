"""``mlagent export-model``: a trained policy as adapter, merged weights or GGUF, with a model card."""

from __future__ import annotations

import argparse


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent export-model`` say."""
    from mlagent_lib.run.export_model import export_model

    out = export_model(arguments.source, arguments.to, arguments.out, quantization=arguments.quantization)
    for path in sorted(out.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
