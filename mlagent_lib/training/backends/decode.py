"""A decode loop of our own for small models on a CPU: the same tokens as Transformers' ``generate``, sooner.

What it leaves out is work done twice: the adapter is added to flat weights once a call; the projections that
read the same input are one product; what prompts begin with in common is read once, and the keys and values
of a prompt are never repeated for the replies to it; rows that have ended are dropped; a token is drawn from
the cumulated probabilities.

It runs models of the shapes Qwen2 and Llama on a CPU, in float32, or with products in bfloat16 and all else
in float32 (`reason_against` says why not); for all others `generate` does the work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, silu

from mlagent_lib.core.errors import RunError

KINDS = ("qwen2", "llama")
DROP_BELOW = 0.75  # ours: share of the rows that still run, below which the others are taken out


def reason_against(model) -> str:
    """Return why this loop cannot run a causal language model, in a few words; "" where it can."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = model.config
    if config.model_type not in KINDS:
        return f"its architecture is {config.model_type or 'unknown'}, not {' or '.join(KINDS)}"
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes in {str(weight.dtype).removeprefix('torch.')} on {weight.device.type}"
    if config.hidden_act != "silu" or getattr(config, "use_sliding_window", False):
        return "its activation or its attention window is another one"
    if (scaling := rope_type(config)) != "default":
        return f"its positions are scaled ({scaling})"
    if getattr(config, "mlp_bias", False):
        return "its feed-forward layers have biases"
    return ""


def rope_type(config) -> str:
    """Return how a model stretches its positions for long texts, ``default`` where it does not."""
    return (config.rope_parameters or {}).get("rope_type", "default")


def distinct_rows(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct rows of a batch of prompts, their masks, and which of them each row is.

    Args:
        ids: Token ids, shape (rows, length), padded on the left.
        mask: 1 for tokens, 0 for padding, same shape.

    Example:
        >>> ids = torch.tensor([[5, 6], [0, 7], [5, 6]])
        >>> found, _, which = distinct_rows(ids, torch.tensor([[1, 1], [0, 1], [1, 1]]))
        >>> len(found), bool((found[which] == ids).all())
        (2, True)
    """
    both, which = torch.unique(torch.cat([ids, mask], dim=1), dim=0, return_inverse=True)
    length = ids.size(1)
    return both[:, :length], both[:, length:], which


def distinct_prompts(ids: Tensor, mask: Tensor) -> tuple[list[tuple[int, ...]], Tensor]:
    """Return the distinct prompts (see `distinct_rows`), sorted and without padding, and which each row is.

    Example:
        >>> distinct_prompts(torch.tensor([[0, 7], [5, 6], [0, 7]]), torch.tensor([[0, 1], [1, 1], [0, 1]]))
        ([(5, 6), (7,)], tensor([1, 0, 1]))
    """
    rows = [tuple(compress(*pair)) for pair in zip(ids.tolist(), mask.tolist(), strict=True)]
    found = sorted(set(rows))
    place = {row: number for number, row in enumerate(found)}
    return found, torch.tensor([place[row] for row in rows])


@dataclass(frozen=True)
class Flat:
    """Linear layers that read the same input, as one.

    In float32 the adapter is added to the weight. In bfloat16 it stays beside it, since a change of less than
    half a step of such a number would be lost for every weight.
    """

    weight: Tensor
    bias: Tensor | None
    low: tuple[Tensor, Tensor] | None  # A and B of the adapter, B times its scale

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the output in float32; the product is made in the precision of the weight."""
        found = linear(inputs.to(self.weight.dtype), self.weight, self.bias).float()
        return found if self.low is None else found + linear(linear(inputs, self.low[0]), self.low[1])


def flat(*layers) -> Flat:
    """Return linear layers with the adapter that is on them, if one is.

    Args:
        layers: Linear layers of Transformers, or those that PEFT has put around them.
    """
    weights, biases, downs, ups = [], [], [], []
    for layer in layers:
        base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
        weight, own = base.weight, [torch.zeros(len(base.weight), 0)]
        if base is not layer and not layer.disable_adapters and not layer.merged:
            for name in layer.active_adapters:
                if name in layer.lora_A and weight.dtype == torch.float32:
                    weight = weight + layer.get_delta_weight(name)
                elif name in layer.lora_A:
                    downs.append(layer.lora_A[name].weight.float())
                    own.append(layer.lora_B[name].weight.float() * layer.scaling[name])
        weights.append(weight)
        biases.append(base.bias)
        ups.append(torch.cat(own, dim=1))
    low = (torch.cat(downs), torch.block_diag(*ups)) if downs else None
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    return Flat(weight, None if biases[0] is None else torch.cat(biases), low)


class Decoder:
    """The flat weights of a model as it is now, and the two ways to run them: over prompts, and a token on.

    Args:
        model: For which `reason_against` has nothing to say.
        length: Positions that will be used, at most; all of the model's by default.
    """

    def __init__(self, model, length: int | None = None):
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        body, config = model.model, model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps, self.limit = config.rms_norm_eps, config.max_position_embeddings
        self.embeddings = body.embed_tokens.weight
        self.norm, self.head = body.norm.weight, flat(model.lm_head)
        self.layers = [
            SimpleNamespace(
                before=layer.input_layernorm.weight,
                qkv=self._for_attention(layer.self_attn),
                out=flat(layer.self_attn.o_proj),
                after=layer.post_attention_layernorm.weight,
                gate_up=flat(layer.mlp.gate_proj, layer.mlp.up_proj),
                down=flat(layer.mlp.down_proj),
            )
            for layer in body.layers
        ]
        # no more than are used: a table of 131,072 positions would be made anew in every call
        positions = torch.arange(min(self.limit, length or self.limit)).float()
        angles = torch.outer(positions, body.rotary_emb.inv_freq.float())
        # queries and keys are turned, and so each takes its half of the scale of their product
        self.turns = torch.polar(torch.full_like(angles, self.width**-0.25), angles).unsqueeze(1)

    def _for_attention(self, layer) -> Flat:
        """Return the projections of a layer as one.

        Of queries and keys the two numbers that positions turn together, which lie half a width apart in a
        checkpoint, become neighbours: a complex number. The products of queries and keys do not change.
        """
        made = flat(layer.q_proj, layer.k_proj, layer.v_proj)
        turned = (self.heads + self.kv_heads) * self.width
        order = torch.arange(turned).view(-1, 2, self.width // 2).transpose(1, 2).flatten()
        order = torch.cat([order, torch.arange(turned, len(made.weight))])
        bias, low = made.bias, made.low
        return Flat(
            made.weight[order], None if bias is None else bias[order], low and (low[0], low[1][order])
        )

    def _normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps) * weight

    def _projected(self, layer: SimpleNamespace, hidden: Tensor, turn: Tensor):
        """Return queries, keys and values of a layer, shape (rows, heads, width) each."""
        parts = layer.qkv(self._normed(hidden, layer.before))
        parts = parts.unflatten(-1, (self.heads + 2 * self.kv_heads, self.width))
        both, values = parts.split([self.heads + self.kv_heads, self.kv_heads], dim=-2)
        both = torch.view_as_real(torch.view_as_complex(both.unflatten(-1, (-1, 2))) * turn).flatten(-2)
        return *both.split([self.heads, self.kv_heads], dim=-2), values

    def _rest(self, layer: SimpleNamespace, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = hidden + layer.out(attended)
        gate, up = layer.gate_up(self._normed(hidden, layer.after)).chunk(2, dim=-1)
        return hidden + layer.down(silu(gate).mul_(up))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits that follow from the last hidden state."""
        return self.head(self._normed(hidden, self.norm))

    def read(self, prompts: Sequence[Sequence[int]]):
        """Return the last hidden state of each prompt, and keys and values, padded on the right.

        A prompt begins where it differs from the one before: what both share is read once. Of the last layer
        no more is computed than keys, values and the last position.

        Args:
            prompts: Distinct and sorted, so that those with the same beginning are neighbours.
        """
        begins = [0, *(len(os.path.commonprefix(pair)) for pair in pairwise(prompts))]
        ends = list(map(len, prompts))
        spans = list(zip(begins, ends, strict=True))
        sizes = [end - begin for begin, end in spans]
        stops = torch.tensor(sizes).cumsum(0)
        shape, longest = (len(prompts), self.kv_heads, max(ends), self.width), max(ends)
        ids = [token for row, (begin, _) in zip(prompts, spans, strict=True) for token in row[begin:]]
        turn = self.turns[torch.tensor([place for span in spans for place in range(*span)])]
        causal = torch.ones(longest, longest, dtype=torch.bool).tril()
        hidden, kept = embedding(torch.tensor(ids), self.embeddings).float(), []
        for layer in self.layers:
            queries, *made = self._projected(layer, hidden, turn)
            kept.append(tuple(self._laid_out(part, spans, shape) for part in made))
            if len(kept) == len(self.layers):
                hidden, queries = hidden[stops - 1], queries[stops - 1].unsqueeze(2)
                attended = self._attended(queries, *kept[-1], causal[torch.tensor(ends) - 1, None, None])
                return self._rest(layer, hidden, attended.flatten(1)), kept
            parts = zip(queries.transpose(0, 1).split(sizes, dim=1), *kept[-1], spans, strict=True)
            attended = [
                self._attended(own[None], keys[None, :, :end], values[None, :, :end], causal[begin:end, :end])
                for own, keys, values, (begin, end) in parts
            ]
            hidden = self._rest(layer, hidden, torch.cat(attended, dim=2)[0].transpose(0, 1).flatten(1))

    def _laid_out(self, made: Tensor, spans: Sequence[tuple[int, int]], shape: tuple) -> Tensor:
        """Return keys or values as one row for each prompt, its beginning taken from the row before."""
        table, parts = torch.zeros(shape), made.split([end - begin for begin, end in spans])
        for number, ((begin, end), own) in enumerate(zip(spans, parts, strict=True)):
            if begin:
                table[number, :, :begin] = table[number - 1, :, :begin]
            table[number, :, begin:end] = own.transpose(0, 1)
        return table

    def _attended(self, queries, keys, values, mask) -> Tensor:
        grouped = self.heads != self.kv_heads
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(queries, keys, values, attn_mask=mask, enable_gqa=grouped, scale=1.0)


class _Rows:
    """Replies in the making: which prompt each follows, and the keys and values of its own tokens."""

    def __init__(self, decoder: Decoder, kept, lengths: Sequence[int], which: Tensor, most: int):
        self.decoder, self.kept, self.which = decoder, kept, which
        ends = torch.tensor(lengths)
        self.blind = torch.arange(max(lengths)) >= ends[:, None]
        self.padded = bool(self.blind.any())
        self.positions = ends[which]
        shape = (len(which), decoder.kv_heads, most, decoder.width)
        self.own = [(torch.empty(shape), torch.empty(shape)) for _ in decoder.layers]
        self.length = 0
        self._arrange()

    def _arrange(self) -> None:
        """Lay the rows out as a table of prompts and places, so that a prompt is read for all its replies.

        ``slot`` is the place of each row in that table; places that no row takes are computed and not used.
        """
        counts = torch.bincount(self.which, minlength=len(self.blind))
        order = torch.argsort(self.which, stable=True)
        first = (counts.cumsum(0) - counts)[self.which[order]]
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order)) - first
        self.places = int(counts.max())
        slot = self.which * self.places + place
        in_order = len(slot) == len(self.blind) * self.places and bool((slot.diff() == 1).all())
        self.slot = None if in_order else slot  # None: the rows are that table as they are

    def keep(self, alive: Tensor) -> None:
        """Take out the rows that have ended, and the prompts that no row follows any more."""
        prompts, self.which = torch.unique(self.which[alive], return_inverse=True)
        if len(prompts) < len(self.blind):
            self.kept = [(keys[prompts], values[prompts]) for keys, values in self.kept]
            self.blind = self.blind[prompts]
        self.positions = self.positions[alive]
        self.own = [tuple(self._kept(part, alive) for part in pair) for pair in self.own]
        self._arrange()

    def _kept(self, part: Tensor, alive: Tensor) -> Tensor:
        """Return the rows that go on; what is not written yet is not copied."""
        made = part.new_empty((int(alive.sum()), *part.shape[1:]))
        made[:, :, : self.length] = part[:, :, : self.length][alive]
        return made

    def advance(self, tokens: Tensor) -> Tensor:
        """Return the logits after one more token of each row, shape (rows, vocabulary)."""
        decoder, rows, groups = self.decoder, len(tokens), self.decoder.heads // self.decoder.kv_heads
        hidden, turn = embedding(tokens, decoder.embeddings).float(), decoder.turns[self.positions]
        length = self.length + 1
        for layer, prompt, own in zip(decoder.layers, self.kept, self.own, strict=True):
            queries, keys, values = decoder._projected(layer, hidden, turn)
            own[0][:, :, self.length], own[1][:, :, self.length] = keys, values
            queries = queries.unflatten(1, (decoder.kv_heads, groups))
            scores = self._by_prompt(queries) @ prompt[0].transpose(-1, -2)
            if self.padded:
                scores.masked_fill_(self.blind[:, None, None, :], float("-inf"))
            scores, wide = self._by_row(scores, groups), scores.size(-1)
            scores = torch.cat([scores, queries @ own[0][:, :, :length].transpose(-1, -2)], dim=-1)
            weights = scores.softmax(dim=-1)
            attended = self._by_row(self._by_prompt(weights[..., :wide]) @ prompt[1], groups)
            attended += weights[..., wide:] @ own[1][:, :, :length]
            hidden = decoder._rest(layer, hidden, attended.reshape(rows, -1))
        self.length, self.positions = length, self.positions + 1
        return decoder.logits(hidden)

    def _by_prompt(self, rows: Tensor) -> Tensor:
        """Return rows, shape (rows, heads, groups, n), as (prompts, heads, places x groups, n)."""
        shape = (len(self.blind), self.places, *rows.shape[1:])
        if self.slot is not None:
            rows = rows.new_zeros(shape).flatten(0, 1).index_copy_(0, self.slot, rows)
        return rows.reshape(shape).transpose(1, 2).flatten(2, 3)

    def _by_row(self, table: Tensor, groups: int) -> Tensor:
        """Return the way back of `_by_prompt`."""
        table = table.unflatten(2, (self.places, groups)).transpose(1, 2).flatten(0, 1)
        return table if self.slot is None else table[self.slot]


def drawn(logits: Tensor, temperature: float) -> Tensor:
    """Return a token for each row of logits: the likeliest at temperature 0, else drawn by probability."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    sums = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    point = torch.rand(len(logits), 1, dtype=torch.float64) * sums[:, -1:]
    return torch.searchsorted(sums, point, right=True).squeeze(1).clamp(max=logits.size(1) - 1)


@torch.inference_mode()
def replies(
    model, ids: Tensor, mask: Tensor, *, most: int, temperature: float, ends: Sequence[int], padding: int
) -> Tensor:
    """Return the tokens of one reply to each prompt, shape (rows, longest reply), padded on the right.

    Draws from the global random stream of PyTorch.

    Args:
        model: For which `reason_against` has nothing to say; an adapter that is off stays off.
        ids: Prompts, shape (rows, length), padded on the left; equal ones are read once.
        mask: 1 for tokens, 0 for padding, same shape.
        most: Longest reply in tokens, at least 1.
        temperature: 0 for the likeliest token; else samples.
        ends: Tokens that end a reply.
        padding: Token behind the end of a reply.

    Raises:
        RunError: The model has no position left for a token that is wanted.
    """
    prompts, which = distinct_prompts(ids, mask)
    lengths = list(map(len, prompts))
    longest = max(lengths)
    decoder = Decoder(model, longest + most)
    if longest > decoder.limit:
        raise _full(longest, decoder.limit)
    hidden, kept = decoder.read(prompts)
    rows = _Rows(decoder, kept, lengths, which, most)
    found = torch.full((len(ids), most), padding)
    running, stops = torch.arange(len(ids)), torch.tensor(list(ends))
    alive = torch.ones(len(ids), dtype=torch.bool)  # of the rows that still run
    tokens = drawn(decoder.logits(hidden)[which], temperature)
    for step in range(most):
        found[running[alive], step] = tokens[alive]
        alive = alive & ~torch.isin(tokens, stops)
        if not alive.any() or step + 1 == most:
            return found[:, : step + 1]
        if alive.float().mean() < DROP_BELOW:
            rows.keep(alive)
            running, tokens, alive = running[alive], tokens[alive], alive[alive]
        if int(rows.positions.max()) >= decoder.limit:
            raise _full(int(rows.positions.max()) + 1, decoder.limit)
        tokens = drawn(rows.advance(tokens), temperature)


def _full(wanted: int, limit: int) -> RunError:
    return RunError(
        f"a prompt and its reply take {wanted} tokens, and the model has {limit} positions",
        cure="give the profile fewer prompt_tokens, or shorter replies (grpo.max_new_tokens)",
    )


# What a call of ``generate`` may ask for that this loop does: the rest is left to Transformers.
_SERVED = {
    *("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "disable_compile", "transformers_version"),
}


def generated(model, ids, mask, config=None, **options) -> Tensor | None:
    """Return what ``model.generate`` would return, or None where this loop does not serve such a call.

    Args:
        ids: Prompts with their mask, as `replies` takes them, or None.
        config: Of the call; the model's own where it says nothing.
        options: Of the call; they count more than both.
    """
    if ids is None or mask is None or reason_against(model):
        return None
    asked, told = {}, config.to_diff_dict() if config is not None else {}
    for values in (model.generation_config.to_diff_dict(), told, options):
        asked |= {name: value for name, value in values.items() if value is not None}
    if config is not None:  # its values, also where they are Transformers' own
        asked |= {"top_k": asked.get("top_k", config.top_k), "top_p": asked.get("top_p", config.top_p)}
    sampled = bool(asked.get("do_sample"))
    whole = asked.get("top_k") == 0 and asked.get("top_p") in (None, 1.0) if sampled else True
    if not whole or set(asked) - _SERVED or asked.get("repetition_penalty", 1.0) != 1.0:
        return None
    ends = asked["eos_token_id"] if isinstance(asked["eos_token_id"], list) else [asked["eos_token_id"]]
    found = replies(
        model, ids, mask, most=asked["max_new_tokens"], ends=ends, padding=asked["pad_token_id"],
        temperature=float(asked.get("temperature", 1.0)) if sampled else 0.0,
    )  # fmt: skip
    return torch.cat([ids, found], dim=1)
