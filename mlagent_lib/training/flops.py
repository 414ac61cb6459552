"""How much arithmetic an update takes, and how much a card can do: pure numbers, with their sources.

A share of the peak says how well a card is used, whatever the model. Counted is what the method needs; work
that is done twice to save memory (gradient checkpointing) is not, as in PaLM's model FLOPs utilisation (arXiv
2204.02311, appendix B).
"""

from __future__ import annotations

import re

from mlagent_lib.training.memory import Shape, parameters

# Peak of dense bfloat16 products with float32 sums, in TFLOPS: pattern in the card's name, value, source. The
# first that fits counts. Data sheets that state the value with sparsity are halved.
PEAKS = (
    (r"\bB200\b", 2250.0, "NVIDIA HGX B200 data sheet: 4,500 with sparsity"),
    (r"\bH200 NVL\b", 835.5, "NVIDIA H200 data sheet: 1,671 with sparsity"),
    (r"\bH200\b", 989.5, "NVIDIA H200 data sheet: 1,979 with sparsity"),
    (r"\bH100 PCIe\b", 756.5, "NVIDIA H100 data sheet, PCIe: 1,513 with sparsity"),
    (r"\bH100 NVL\b", 835.5, "NVIDIA H100 data sheet, NVL: 1,671 with sparsity"),
    (r"\bH100\b", 989.5, "NVIDIA H100 data sheet, SXM: 1,979 with sparsity"),
    (r"\bA100\b", 312.0, "NVIDIA A100 data sheet"),
    (r"\bA30\b", 165.0, "NVIDIA A30 data sheet"),
    (r"\bA10\b", 125.0, "NVIDIA A10 data sheet"),
    (r"\bL40S\b", 362.0, "NVIDIA L40S data sheet"),
    (r"\bL4\b", 121.0, "NVIDIA L4 data sheet: 242 with sparsity"),
    (r"\bT4\b", 65.0, "NVIDIA T4 data sheet; float16, it has no bfloat16"),
)


def update_flops(
    shape: Shape, *, rows: int, prompt: float, completion: float, prompt_rows: int | None = None
) -> float:
    """Return the floating-point operations of one LoRA update: forward, and backward to the adapters.

    A product of a token with a weight is 2 operations. Frozen weights need no gradient of their own, so the
    backward pass costs them as much again as the forward pass, where full training would cost twice as much;
    causal attention, which has no weights, costs twice. The adapters themselves (below 2 %) are left out.

    Args:
        completion: Tokens of a completion, on average; only these need the output layer.
        prompt_rows: Prompts that are read; fewer than ``rows`` where a group shares its prompt.

    Example:
        >>> toy = Shape(2, 3, 1, 1, 1, 5, True)  # 34 weights in the layer, 10 in the output layer
        >>> update_flops(toy, rows=1, prompt=1, completion=1)  # 2 x (2 x 34 x 2 + 2 x 10) + 3 x (4 + 12)
        360.0
    """
    prompts = rows if prompt_rows is None else prompt_rows
    linear = 2.0 * parameters(shape)[0] * (prompts * prompt + rows * completion)
    output = 2.0 * shape.hidden * shape.vocabulary * rows * completion
    # scores and their use, 2 operations each, for half of the pairs
    own = 2.0 * prompts * prompt**2
    across = 4.0 * rows * completion * (prompt + completion / 2)
    return 2 * (linear + output) + 3 * shape.layers * shape.hidden * (own + across)


def peak_tflops(card: str) -> tuple[float, str] | None:
    """Return the peak of a card in TFLOPS with its source, or None where we have no data sheet of it.

    Example:
        >>> peak_tflops("NVIDIA H100 80GB HBM3")[0], peak_tflops("NVIDIA A100-SXM4-80GB")[0]
        (989.5, 312.0)
        >>> peak_tflops("Some Card 9000") is None
        True
    """
    return next(((value, source) for pattern, value, source in PEAKS if re.search(pattern, card)), None)
