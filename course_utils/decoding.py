"""Answer many prompts with a Llama on a CPU, and dequantize each of its 4-bit weights only once.

transformers' `generate` computes each new token in a forward pass, in which every 4-bit weight is
dequantized again. A `Decoder` keeps the dequantized weights for as long as it exists. They need
0.2 GB for SmolLM2-135M. A picture in `training.by_hand` shows the layers. All prompts begin with
the same tokens, the prefix:

    ┌─ prefix ──────────┐┌─ rest ───────────────────┐┌─ new tokens ────────────┐
    <user> Examples: …    A story. <assistant>        {"section": "sport"}<end>
                          A longer story. <assistant> {"section": "culture"}<end>

The keys and values of the prefix are computed once and stored once. Then a few forward passes read
the rests of the prompts. In each of these passes, the tokens of several rests follow each other in
one long sequence without padding. Each further pass adds one token to each answer. The queries of
all answers are multiplied by the keys of the prefix in one product.

Letters in the shapes:

    T  tokens of a forward pass      D  width of the model       N  prompts of a batch
    S  tokens of the prefix          H  query heads              C  places for the rest and the
    p  tokens of a rest              K  key and value heads         new tokens of a prompt
    V  tokens in the vocabulary      G  query heads of each      d  width of a head
    r  rank of an adapter               key head: H / K

Answers to prompts that begin with the tokens of the prefix:

    decoder = Decoder(model, prefix)
    new_tokens = decoder.answers(rests, ends, max_new_tokens=40)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from course_utils.machine import runtime, threads
from course_utils.models.llama import (
    DTYPES,
    Adapter,
    adapter_of,
    base_layer,
    base_llama,
    dense_weight,
    four_bit_state,
    has_plain_adapters,
    linears,
    product_dtype,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# Options of a generation config that don't change greedy answers if the end tokens and the maximum
# length are given.
HARMLESS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "use_cache", "do_sample"),
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "output_attentions"),
    *("output_hidden_states", "_from_model_config", "transformers_version"),
}

# The prompts of a batch are read in groups. The rests in a group have at most this many tokens in
# total, unless a single rest is longer. The activations of all prompts together would need more
# memory.
READ = 512

# Computes z, (T, H·d), from the number of a layer, q, (T, H, d), and k and v, (2, T, K, d).
Attend = Callable[[int, Tensor, Tensor], Tensor]


# -- the parts of a layer --------------------------------------------------------------------------


class Linears:
    """Linear layers with the same input x: y_i = x W_iᵀ + (x A_iᵀ) (s_i B_i)ᵀ.

    The rows of all A_i are in one matrix `a`, so one product multiplies x by all of them. A layer
    without an adapter has r = 0.
    """

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype):
        A, B, scales = zip(*map(_used_adapter, layers), strict=True)  # (r, in) and (out, r) each
        # (out, in) each
        self.weights = [dense_weight(base_layer(layer), dtype) for layer in layers]
        self.ranks = list(map(len, A))
        self.a = torch.cat(A).to(dtype)  # (Σ r, in)
        self.b = [(s * b.T).to(dtype) for s, b in zip(scales, B, strict=True)]  # (r, out) each

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return all y_i, (T, out), for x, (T, in)."""
        xa = (x @ self.a.T).split(self.ranks, 1)  # (T, r) each
        parts = zip(self.weights, xa, self.b, strict=True)
        return [(x @ w.T).addmm_(xa_i, b) for w, xa_i, b in parts]


class Norm:
    """RMSNorm: y = w x / √(mean(x²) + ε). The quotient is computed in float32."""

    def __init__(self, norm: Any):
        self.w, self.eps = norm.weight.data, norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        """Return y, (T, D), for x, (T, D)."""
        wide = x.float()
        mean = wide.square().mean(1, keepdim=True)  # (T, 1)
        return (wide * (mean + self.eps).rsqrt_()).to(x).mul_(self.w)


class Layer:
    """A layer of a Llama, with the weights of all linear layers in the same dtype."""

    def __init__(self, layer: Any, dtype: torch.dtype):
        a, m = layer.self_attn, layer.mlp
        self.norms = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self.qkv = Linears([a.q_proj, a.k_proj, a.v_proj], dtype)
        self.o, self.down = Linears([a.o_proj], dtype), Linears([m.down_proj], dtype)
        self.gate_up = Linears([m.gate_proj, m.up_proj], dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x_j, x_{j + d/2}) of each head of x, (T, heads, d), by its angle."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Cache:
    """The keys and values of N prompts in all layers.

    Attributes:
        kv: Keys and values, (layers, 2, N, K, C, d).
        places: The number C of places of each prompt.
        used: How many of its places each prompt has used so far, (N,).
    """

    def __init__(self, decoder: Decoder, lengths: Sequence[int], room: int = 0):
        self.places, self.used = max(lengths) + room, torch.tensor(lengths)
        shape = len(decoder.layers), 2, len(lengths), decoder.K, self.places, decoder.d
        # An unused place has the weight 0 in attention. It must not contain nan: 0 · nan is nan.
        self.kv = torch.zeros(shape, dtype=decoder.dtype)


# -- the model -------------------------------------------------------------------------------------


class Decoder:
    """The greedy answers of a Llama to prompts that begin with the same prefix.

    Args:
        model: A model that `supports` returns True for. The adapter is copied, so later changes of
            the adapter don't change the answers.
    """

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel | PeftModel, prefix: Sequence[int] = ()):
        base: Any = base_llama(model)
        layers, config = base.model.layers, base.config
        self.H, self.K = config.num_attention_heads, config.num_key_value_heads
        self.d, self.G = layers[0].self_attn.head_dim, self.H // self.K
        self.dtype: torch.dtype = product_dtype(base_layer(layers[0].mlp.up_proj))
        self.inv_freq = base.model.rotary_emb.inv_freq.float()  # (d/2,)
        self.embedding = base.model.embed_tokens.weight.data  # (V, D)
        self.layers = [Layer(layer, self.dtype) for layer in layers]
        self.norm, self.head = Norm(base.model.norm), base.lm_head.weight.data.to(self.dtype)
        self.prefix = Cache(self, [0])
        if prefix:
            read = Cache(self, [len(prefix)])
            self._read([prefix], read)
            self.prefix = read

    @torch.inference_mode()
    def answers(
        self, rests: Sequence[Sequence[int]], ends: Sequence[int], max_new_tokens: int
    ) -> list[list[int]]:
        """Return the new tokens for each prompt. Tokens after an end token mean nothing."""
        cache, new = Cache(self, list(map(len, rests)), room=max_new_tokens), []
        ended = torch.zeros(len(rests), dtype=torch.bool)
        size = max(1, READ // int(cache.used.max()))
        groups = range(0, len(rests), size)
        x = torch.cat([self._read(rests[n : n + size], cache, n) for n in groups])  # (N, D)
        while True:
            new.append(self._logits(x).argmax(1))  # (N,)
            ended |= torch.isin(new[-1], torch.tensor(ends))
            if ended.all() or len(new) == max_new_tokens:
                return torch.stack(new, 1).tolist()
            x = self._step(new[-1], cache)

    def _read(self, rests: Sequence[Sequence[int]], cache: Cache, first: int = 0) -> Tensor:
        """Add the rests of some prompts to a cache.

        In attention, the G query heads that share a key head are stacked: each token has G rows of
        queries.

        Returns:
            The result of the last layer for the last token of each prompt, (prompts, D).
        """
        S, lengths = self.prefix.places, list(map(len, rests))
        query, key = torch.arange(max(lengths)), torch.arange(S + max(lengths))
        mask = self._mask(key > S + query.repeat_interleave(self.G)[:, None])  # (p·G, S + p)

        def attend(j: int, q: Tensor, kv: Tensor) -> Tensor:
            outs = []
            parts = zip(q.split(lengths), kv.split(lengths, 1), lengths, strict=True)
            for n, (q_n, kv_n, p) in enumerate(parts, start=first):
                q_n = q_n.view(p, self.K, -1, self.d).transpose(0, 1)  # (K, p, G, d)
                kv_n = kv_n.transpose(1, 2)  # (2, K, p, d)
                cache.kv[j, :, n, :, :p] = kv_n
                keys, values = torch.cat((self.prefix.kv[j, :, 0], kv_n), 2)  # (K, S + p, d) each
                z = functional.scaled_dot_product_attention(
                    q_n.reshape(1, self.K, -1, self.d),
                    keys[None],
                    values[None],
                    attn_mask=mask[: p * self.G, : S + p],
                )  # (1, K, p·G, d)
                outs.append(z.view(self.K, p, -1).transpose(0, 1).reshape(p, -1))  # (p, H·d)
            return torch.cat(outs)

        ids = torch.tensor([token for rest in rests for token in rest])
        positions = torch.cat([query[:p] for p in lengths]) + S
        return self._forward(ids, positions, attend)[torch.tensor(lengths).cumsum(0) - 1]

    def _step(self, new: Tensor, cache: Cache) -> Tensor:
        """Process the newest token of each answer, (N,).

        Returns:
            The result of the last layer for these tokens, (N, D).
        """
        N, S, rows = len(new), self.prefix.places, torch.arange(len(new))
        mask = self._mask(torch.arange(cache.places) > cache.used[:, None])[:, None, None]

        def attend(j: int, q: Tensor, kv: Tensor) -> Tensor:
            cache.kv[j, :, rows, :, cache.used] = kv.transpose(0, 1)
            (shared_keys, shared_values), (keys, values) = self.prefix.kv[j, :, 0], cache.kv[j]
            q = q.view(N, self.K, self.G, self.d) * self.d**-0.5
            shared = self._by_key_head(q) @ shared_keys.mT  # (K, N·G, S)
            shared = shared.view(self.K, N, self.G, S).transpose(0, 1)
            # The product in this order is twice as fast as q · keysᵀ.
            own = (keys @ q.mT).mT + mask  # (N, K, G, C)
            w = torch.cat((shared, own), -1).softmax(-1)
            z = self._by_key_head(w[..., :S]) @ shared_values  # (K, N·G, d)
            z = z.view(self.K, N, self.G, self.d).transpose(0, 1)
            return (w[..., S:] @ values).add_(z).view(N, -1)  # (N, H·d)

        x = self._forward(new, cache.used + S, attend)
        cache.used += 1
        return x

    def _forward(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return the result of the last layer, (T, D), for tokens, (T,), at positions, (T,)."""
        x, T = self.embedding[ids].to(self.dtype), len(ids)
        angles = positions[:, None, None] * self.inv_freq  # (T, 1, d/2)
        turn = angles.cos().to(x), angles.sin().to(x)
        for j, layer in enumerate(self.layers):
            threads.adapt()
            q, k, v = (y.view(T, -1, self.d) for y in layer.qkv(layer.norms[0](x)))
            z = attend(j, _rotate(q, *turn), torch.stack((_rotate(k, *turn), v)))  # (T, H·d)
            x = layer.o(z)[0].add_(x)
            gate, up = layer.gate_up(layer.norms[1](x))
            x = layer.down(functional.silu(gate, inplace=True).mul_(up))[0].add_(x)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        """Return the logits of the next tokens, (N, V), for x, (N, D)."""
        return (self.norm(x) @ self.head.T).float()

    def _mask(self, hidden: Tensor) -> Tensor:
        """Return what is added to the scores: −∞ where a key is hidden from a query, else 0."""
        return torch.zeros(hidden.shape, dtype=self.dtype).masked_fill_(hidden, -math.inf)

    def _by_key_head(self, x: Tensor) -> Tensor:
        """Return x, (N, K, G, …), in the shape (K, N·G, …)."""
        return x.transpose(0, 1).flatten(1, 2)


# -- which models ----------------------------------------------------------------------------------


def supports(model: PreTrainedModel | PeftModel) -> bool:
    """Return whether a `Decoder` can answer with a model, which must be a Llama on a CPU.

    Its linear layers must all compute in float32 or all in bfloat16. Each may have one active
    adapter of plain LoRA. The generation config must not change greedy answers, and the dequantized
    weights may need at most half of the free memory.
    """
    from peft.utils.other import AuxiliaryTrainingWrapper

    base = base_llama(model)
    if base is None:
        return False
    layers, configs = list(linears(base)), getattr(model, "peft_config", {}).values()
    bases = list(map(base_layer, layers))
    dtype = product_dtype(bases[0])
    if dtype not in DTYPES or any(product_dtype(layer) != dtype for layer in bases):
        return False
    copied = sum(layer.in_features * layer.out_features for layer in bases if four_bit_state(layer))
    return (
        has_plain_adapters(layer for layer in layers if not _is_off(layer) or layer.merged)
        and all(config.peft_type == "LORA" for config in configs)
        # peft wraps norms that are trained as a whole.
        and not any(isinstance(module, AuxiliaryTrainingWrapper) for module in base.modules())
        and HARMLESS.issuperset(model.generation_config.to_diff_dict())
        and 2 * copied * dtype.itemsize <= runtime.available_memory()
    )


def _is_off(layer: Any) -> bool:
    """Return whether a layer has adapters, and they are disabled."""
    return getattr(layer, "disable_adapters", False)


def _used_adapter(layer: Any) -> Adapter:
    return adapter_of(base_layer(layer) if _is_off(layer) else layer)
