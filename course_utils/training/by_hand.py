"""QLoRA by hand: the training step of a Llama without autograd (lecture 07, *Going deeper*).

A layer of a Llama has two halves, and each half adds something to its input x:

    attention   x ─┬─► norm ─► q, k, v ─► rotate ─► softmax(q kᵀ) v ─► o ──► + ─► y
                   └─────────────────────────────────────────────────────────┘
    MLP         x ─┬─► norm ─► gate, up ─► silu(gate) · up ─► down ────────► + ─► y
                   └─────────────────────────────────────────────────────────┘

The weights W of q, k, v, o, gate, up and down are frozen and stored in 4 bits, as in QLoRA, or in
the dtype of the products, as in LoRA. A layer with an adapter computes y = x Wᵀ + s (x Aᵀ) Bᵀ with
the scale s = α/r, and only A and B are trained. A step goes through all halves forward, which gives
the loss L, and then backward. In the backward pass, a half gets g = ∂L/∂y, computes the gradients
of its A and B, and returns ∂L/∂x. Below, ∂A is short for ∂L/∂A.

Letters in the shapes:

    T  tokens of a batch             D  width of the model       N  sequences of a batch
    R  tokens whose next token       F  width of the MLP         P  places of each sequence
       is part of an answer          H  query heads              S  stripes of the queries
    V  tokens in the vocabulary      K  key and value heads      p  places of a stripe: P / S
    r  rank of an adapter            G  query heads of each      d  width of a head
                                        key head: H / K

A step that changes the adapters:

    llama = LlamaByHand(peft_model)
    loss = llama.backward(batch, 1 / answer_tokens)
    torch.nn.utils.clip_grad_norm_(peft_model.parameters(), 1.0)
    optimizer.step()

On a CPU, such a step is faster than a step with autograd for three reasons. Large tensors are
reused in every step. The tokens of all sequences follow each other in one long sequence, so only
attention needs padding. Values that no loss and no gradient needs are not computed.
docs/performance.md has the measurements.

References: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), LoRA (Hu et al. 2021, arXiv 2106.09685),
gradient checkpointing (Chen et al. 2016, arXiv 1604.06174), Llama (Touvron et al. 2023, arXiv
2302.13971), rotary embeddings (Su et al. 2021, arXiv 2104.09864).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.machine import runtime, threads
from course_utils.models.llama import (
    DTYPES,
    adapter_of,
    base_layer,
    base_llama,
    dense_weight,
    has_plain_adapters,
    linears,
    product_dtype,
)
from course_utils.sft import IGNORE
from course_utils.training.loss import CHUNK

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# S: the queries of a sequence are divided into this many stripes. The first stripe attends to the
# first third of the keys, the second to two thirds, and the last to all. So a third of all scores,
# which the mask would hide, is not computed.
STRIPES = 3


class Buffers:
    """Buffers by name, overwritten in each step, because new memory takes time in each step.

    Attributes:
        owner: The attention or MLP whose activations these buffers contain now.
    """

    def __init__(self, like: Tensor):
        self.like, self.tensors = like, dict[str, Tensor]()
        self.owner: Half | None = None
        runtime.clearable.add(self)

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return the buffer `name` in the given shape, which may differ from step to step."""
        size = math.prod(shape)
        if name not in self.tensors or self.tensors[name].numel() < size:
            self.tensors.pop(name, None)
            # A longer batch may follow, so this reserves a quarter more. The system provides memory
            # only when it is written, so memory that is never used costs nothing.
            self.tensors[name] = self.like.new_empty(size + size // 4)
        return self.tensors[name][:size].view(shape)

    def clear(self) -> None:
        """Free the memory of all buffers, even of buffers that a view still refers to."""
        for tensor in self.tensors.values():
            tensor.untyped_storage().resize_(0)
        self.tensors.clear()


# -- linear layers with adapters -------------------------------------------------------------------


class Linears:
    """Linear layers with the same input x: y_i = x W_iᵀ + s_i (x A_iᵀ) B_iᵀ.

    The rows of all A_i are in one matrix `a`, so one product multiplies x by all of them. `b`
    contains s_i B_iᵀ for each layer. A layer without an adapter has r = 0.
    """

    def __init__(self, llama: LlamaByHand, layers: Sequence[Any]):
        self.llama, self.layers = llama, layers
        self.bases = [base_layer(layer) for layer in layers]
        self.A, self.B, _ = zip(*map(adapter_of, layers), strict=True)  # (r, in) and (out, r) each
        self.ranks = [len(A) for A in self.A]
        self.a = torch.cat([A.detach() for A in self.A]).to(llama.like, copy=True)  # (Σ r, in)
        self.b = [llama.like.new_empty(B.T.shape) for B in self.B]  # (r, out) each
        self.kept = Buffers(llama.like)

    def refresh(self) -> None:
        """Copy the adapters, which the optimizer changes, to `a` and `b` in the products' dtype."""
        self.scales = [adapter_of(layer).scale for layer in self.layers]
        for a, A in zip(self.a.split(self.ranks), self.A, strict=True):
            a.copy_(A)
        for b, B, scale in zip(self.b, self.B, self.scales, strict=True):
            torch.mul(B.T, scale, out=b)

    def weights(self) -> list[Tensor]:
        """Return all W_i, (out, in), in the dtype of the products."""
        return [dense_weight(base, self.llama.dtype) for base in self.bases]

    def forward(self, x: Tensor, weights: list[Tensor], ys: list[Tensor]) -> None:
        """Compute all y_i, (T, out), from x, (T, in)."""
        self.xa = torch.mm(x, self.a.T, out=self.kept("xa", len(x), len(self.a)))  # (T, Σ r)
        for xa, w, b, y in zip(self.xa.split(self.ranks, 1), weights, self.b, ys, strict=True):
            torch.mm(x, w.T, out=y).addmm_(xa, b)

    def backward(self, x: Tensor, weights: list[Tensor], gs: list[Tensor], dx: Tensor) -> None:
        """Add the gradients of all A_i and B_i, and compute ∂x, (T, in), from g_i = ∂y_i, (T, out).

        h_i = s_i g_i B_i      ∂A_i = h_iᵀ x      ∂B_i = s_i g_iᵀ (x A_iᵀ)
        ∂x = Σ (g_i W_i + h_i A_i)
        """
        h = self.llama.work("h", *self.xa.shape)  # (T, Σ r)
        parts = (self.xa.split(self.ranks, 1), h.split(self.ranks, 1))
        for g, xa, h_i, b, B, s in zip(gs, *parts, self.b, self.B, self.scales, strict=True):
            torch.mm(g, b.T, out=h_i)
            B.grad.add_((xa.T @ g).T, alpha=s)
        for A, dA in zip(self.A, (h.T @ x).split(self.ranks), strict=True):
            A.grad.add_(dA)
        torch.mm(gs[0], weights[0], out=dx).addmm_(h, self.a)
        for g, w in zip(gs[1:], weights[1:], strict=True):
            dx.addmm_(g, w)


# -- places in attention ---------------------------------------------------------------------------


class Places:
    """The place of each token in attention, where each sequence is padded to P places.

        tokens of three sequences     a a a b b b b b c c
        places, P = 6                 a a a . . .   b b b b b .   c c . . . .

    In each sequence, the empty places follow the tokens, so the causal mask hides them. Rows of
    keys and values are in the order (N, K, P). Rows of queries are in the order (S, N, K, p), so
    that each of the S stripes is contiguous.

    Attributes:
        tokens_of: For each row of "q", "k" and "v" in places, the row of (T·K, …) that is copied to
            it. To an empty place, an arbitrary row is copied.
        rows_of: For each row of (T·K, …), its row in the places of "q", "k" and "v".
        empty: The rows of queries that belong to empty places.
        cos, sin: Cosine and sine of the angles by which each token's heads are rotated,
            (T, 1, d/2).
        mask: What is added to the scores of a stripe's queries with the keys of the same places,
            (p·G, p).
    """

    def __init__(self, llama: LlamaByHand, lengths: Tensor, positions: Tensor):
        T, K = len(positions), llama.K
        lengths = lengths.clone()
        lengths[-1] += T - lengths.sum()  # padding, which follows the last sequence
        step = 16 * STRIPES
        self.N, self.P = len(lengths), -(-int(lengths.max()) // step) * step
        self.p = self.P // STRIPES
        column, head = torch.arange(self.P), torch.arange(K)[:, None]
        first = lengths.cumsum(0) - lengths
        tokens = (first[:, None] + column).clamp(max=T - 1)[:, None]  # (N, 1, P)
        used = (column < lengths[:, None])[:, None].expand(-1, K, -1)  # (N, K, P)
        keys = torch.arange(used.numel()).view(used.shape)  # (N, K, P)
        stripes = keys.view(STRIPES, self.N, K, self.p).permute(1, 2, 0, 3)  # (N, K, S, p)
        queries = stripes.reshape(used.shape)  # (N, K, P)
        of_keys = (tokens * K + head).flatten()
        of_queries = torch.empty_like(of_keys).index_copy_(0, queries.flatten(), of_keys)
        self.tokens_of = {"q": of_queries, "k": of_keys, "v": of_keys}
        # (N, P, K), of which T · K are used
        self.rows_of = {n: x.mT[used.mT] for n, x in (("q", queries), ("k", keys), ("v", keys))}
        self.empty = queries[~used]
        angles = positions[:, None, None] * llama.inv_freq
        self.cos, self.sin = angles.cos().to(llama.like), angles.sin().to(llama.like)
        mask = llama.like.new_full((self.p, self.p), -math.inf).triu_(1)
        self.mask = mask.repeat_interleave(llama.G, 0)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotate each pair (x_j, x_{j + d/2}) of each head of x, (T, heads, d), by its angle."""
    (a, b), (y, z) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=y).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=z).addcmul_(a, sin)


# -- norms and the halves of a layer ---------------------------------------------------------------


class Norm:
    """RMSNorm, computed in float32: y = w x i with i = 1 / √(mean(x²) + ε)."""

    def __init__(self, llama: LlamaByHand, norm: Any):
        self.w, self.eps, self.wide = norm.weight.data.float(), norm.variance_epsilon, llama.wide

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """Write y, (T, D), to `out`."""
        y = self.wide("x", *x.shape).copy_(x)
        length = torch.linalg.vector_norm(y, dim=1, keepdim=True)
        self.i = length.square_().div_(x.shape[1]).add_(self.eps).rsqrt_()  # (T, 1)
        return out.copy_(y.mul_(self.i).mul_(self.w))

    def backward(self, x: Tensor, dy: Tensor, g: Tensor) -> None:
        """Add ∂x = i w ∂y − i³ x mean(w ∂y x) to g, (T, D), with i of the forward pass."""
        x = self.wide("x", *x.shape).copy_(x)
        dy = self.wide("dy", *x.shape).copy_(dy).mul_(self.w)
        mean = torch.mul(dy, x, out=self.wide("product", *x.shape)).mean(1, keepdim=True)
        g.copy_(dy.mul_(self.i).addcmul_(x, mean.mul_(self.i**3), value=-1).add_(g))


class Half:
    """The attention or the MLP of a layer, with its norm: y = x + out(inner(into(norm(x)))).

    With gradient checkpointing, the attentions of all layers share the buffers of their
    activations, and so do the MLPs. Then only the input x and the products with the matrices A are
    kept for each half, and the backward pass recomputes the activations up to z, the input of
    `out`.

    Attributes:
        answers_only: Whether y is computed only for the R tokens whose next token is part of an
            answer. True only for the attention of the last layer, so the MLP of that layer gets
            only these R tokens.
    """

    answers_only = False

    def __init__(self, llama: LlamaByHand, norm: Any, into: list[Any], out: list[Any]):
        self.llama, self.norm = llama, Norm(llama, norm)
        self.into, self.out = Linears(llama, into), Linears(llama, out)
        self.kept = llama.shared[type(self)] if llama.checkpointing else Buffers(llama.like)

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Compute y, (T or R, D), from x, (T, D)."""
        self.compute_z(x, self.into.weights())
        self.out.forward(self.z, self.out.weights(), [y])
        y.add_(x[self.llama.rows] if self.answers_only else x)

    def compute_z(self, x: Tensor, weights: list[Tensor]) -> None:
        """Compute the activations n = norm(x) and z = inner(into(n)), and keep them."""
        self.n = self.norm.forward(x, self.kept("n", *x.shape))
        self.z = self.inner(weights)
        if self.answers_only:
            out = self.kept("rows of z", len(self.llama.rows), self.z.shape[1])
            self.z = torch.index_select(self.z, 0, self.llama.rows, out=out)
        self.kept.owner = self

    def backward(self, x: Tensor, g: Tensor) -> Tensor:
        """Add the gradients of all A and B, and return ∂x, (T, D), from g = ∂y, (T or R, D)."""
        work, weights = self.llama.work, self.into.weights()
        if self.kept.owner is not self:
            self.compute_z(x, weights)
        dz, dn = work("dz", *self.z.shape), work("dn", *x.shape)
        self.out.backward(self.z, self.out.weights(), [g], dz)
        if self.answers_only:
            dz, g = self._for_all_tokens(dz, len(x)), self._for_all_tokens(g, len(x))
        self.into.backward(self.n, weights, self.inner_backward(dz), dn)
        self.norm.backward(x, dn, g)
        return g

    def _for_all_tokens(self, g: Tensor, T: int) -> Tensor:
        """Return a gradient for all T tokens: the rows of g, (R, …), and 0 for all other tokens."""
        return g.new_zeros(T, g.shape[1]).index_copy_(0, self.llama.rows, g)

    def inner(self, weights: list[Tensor]) -> Tensor:
        """Compute z, (T, …), from self.n and the weights of `into`."""
        raise NotImplementedError

    def inner_backward(self, dz: Tensor) -> list[Tensor]:
        """Compute the gradients of the outputs of `into` from ∂z, (T, …)."""
        raise NotImplementedError


class MLP(Half):
    """z = silu(gate) · up, all of shape (T, F), where silu(x) = x · sigmoid(x)."""

    def inner(self, weights: list[Tensor]) -> Tensor:
        """Compute z from self.n and the weights of gate and up."""
        shape = len(self.n), len(weights[0])
        gate, up, act, z = (self.kept(name, *shape) for name in ("gate", "up", "act", "z"))
        self.into.forward(self.n, weights, [gate, up])
        return torch.mul(torch.ops.aten.silu.out(gate, out=act), up, out=z)

    def inner_backward(self, dz: Tensor) -> list[Tensor]:
        """Compute ∂gate and ∂up in the memory of up and act, which are not needed any more."""
        gate, up, act = (self.kept(name, *dz.shape) for name in ("gate", "up", "act"))
        dact, dup = up.mul_(dz), act.mul_(dz)
        return [torch.ops.aten.silu_backward.grad_input(dact, gate, grad_input=dact), dup]


class Attention(Half):
    """z = softmax(q kᵀ / √d) v, where each token attends only to itself and earlier tokens.

    The G query heads that share a key head are stacked: each place has G rows of queries. So q and
    the result of attention (o in the code) have the shape (S, N·K, p·G, d), and k and v have the
    shape (N·K, P, d).
    """

    def inner(self, weights: list[Tensor]) -> Tensor:
        """Compute z, (T, H·d), from self.n and the weights of q, k and v."""
        llama, work, T = self.llama, self.llama.work, len(self.n)
        qkv = [work(name, T, heads * llama.d) for name, heads in llama.heads.items()]
        self.into.forward(self.n, weights, qkv)
        rotated = zip("qkv", self._rotated(qkv, 1), strict=True)
        q, k, v = (self._in_places(name, x, self.kept) for name, x in rotated)
        o = work("o", *q.shape)
        for i, mine, end, softmax in self._stripes():
            scores = torch.bmm(q[i], k[:, :end].mT, out=work("scores", *softmax.shape))
            scores[..., mine].add_(llama.places.mask)
            torch.softmax(scores, -1, out=softmax)
            torch.bmm(softmax, v[:, :end], out=o[i])
        self.qkv = q, k, v
        return self._by_token("q", o, self.kept("z", T, llama.H * llama.d))

    def inner_backward(self, dz: Tensor) -> list[Tensor]:
        """Compute ∂q, ∂k and ∂v, (T, heads·d), from ∂z, (T, H·d)."""
        llama, work = self.llama, self.llama.work
        q, k, v = self.qkv
        do = self._in_places("q", dz, work)
        do.view(-1, llama.G * llama.d).index_fill_(0, llama.places.empty, 0)
        dq, dk, dv = (work(f"d{name}", *x.shape) for name, x in zip("qkv", self.qkv, strict=True))
        # The last stripe attends to all keys, so it is computed first and sets all of dk and dv.
        # The other stripes then add their part to dk and dv.
        for i, _, end, softmax in reversed(list(self._stripes())):
            dsoftmax = torch.bmm(do[i], v[:, :end].mT, out=work("scores", *softmax.shape))
            ds = work("ds", *softmax.shape)
            torch._softmax_backward_data(dsoftmax, softmax, -1, ds.dtype, grad_input=ds)
            torch.bmm(ds, k[:, :end], out=dq[i])
            if end == llama.places.P:
                torch.bmm(ds.mT, q[i], out=dk)
                torch.bmm(softmax.mT, do[i], out=dv)
            else:
                dk[:, :end].baddbmm_(ds.mT, q[i])
                dv[:, :end].baddbmm_(softmax.mT, do[i])
        gradients = [
            self._by_token(name, x, work(name, len(dz), llama.heads[name] * llama.d))
            for name, x in zip("qkv", (dq, dk, dv), strict=True)
        ]
        return self._rotated(gradients, -1)

    def _in_places(self, name: str, x: Tensor, buffers: Buffers) -> Tensor:
        """Copy tokens to their places: q to (S, N·K, p·G, d), and k and v to (N·K, P, d)."""
        llama, rows = self.llama, x.view(len(x) * self.llama.K, -1)  # (T·K, G·d or d)
        order = llama.places.tokens_of[name]  # (N·K·P,)
        out = buffers(f"{name} in places", len(order), rows.shape[1])
        torch.index_select(rows, 0, order, out=out)
        stripes = (STRIPES,) if name == "q" else ()
        return out.view(*stripes, llama.places.N * llama.K, -1, llama.d)

    def _by_token(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        """Copy tokens from their places in x to `out`, (T, H·d) for queries, else (T, K·d)."""
        width = out.shape[1] // self.llama.K
        rows, chosen = x.view(-1, width), out.view(-1, width)  # (N·K·P, G·d or d), (T·K, …)
        torch.index_select(rows, 0, self.llama.places.rows_of[name], out=chosen)
        return out

    def _stripes(self) -> Iterator[tuple[int, slice, int, Tensor]]:
        """Yield each stripe's number, places, number of keys, and buffer for its softmax.

        A buffer has the shape (N·K, p·G, keys).
        """
        llama, p = self.llama, self.llama.places.p
        for i in range(STRIPES):
            end = (i + 1) * p
            softmax = self.kept(f"softmax {i}", llama.places.N * llama.K, p * llama.G, end)
            yield i, slice(end - p, end), end, softmax

    def _rotated(self, qkv: list[Tensor], direction: int) -> list[Tensor]:
        """Rotate q and k, (T, heads·d), and divide q by √d. The direction −1 rotates back."""
        llama, places = self.llama, self.llama.places
        outs = []
        for x, name, scale in zip(qkv, "qk", (llama.d**-0.5, 1.0), strict=False):
            out, heads = llama.work(f"rotated {name}", *x.shape), (len(x), -1, llama.d)
            cos, sin = places.cos * scale, places.sin * (scale * direction)
            _rotate(x.view(heads), cos, sin, out.view(heads))
            outs.append(out)
        return [*outs, qkv[2]]


# -- the model -------------------------------------------------------------------------------------


class LlamaByHand:
    """The forward and backward pass of a Llama with frozen weights and LoRA adapters.

    The adapters are those of the PeftModel: `backward` adds to their `.grad`, and each batch uses
    their current values.

    Args:
        model: A model that `supports` returns True for.
        checkpointing: Whether activations are recomputed in the backward pass (gradient
            checkpointing), which needs less memory and more time.
    """

    def __init__(self, model: PeftModel, checkpointing: bool = True):
        base: Any = model.get_base_model()
        layers, config, self.checkpointing = base.model.layers, base.config, checkpointing
        self.H, self.K = config.num_attention_heads, config.num_key_value_heads
        self.d, self.G = layers[0].self_attn.head_dim, self.H // self.K
        self.heads = {"q": self.H, "k": self.K, "v": self.K}
        self.inv_freq = base.model.rotary_emb.inv_freq.float()  # (d/2,)
        self.dtype = dtype_of(model)
        self.embedding = base.model.embed_tokens.weight.data  # (V, D)
        self.head = base.lm_head.weight.data.to(self.dtype)  # (V, D)
        self.like = self.head.new_empty(0)
        # The model's own buffers, in the dtype of the products and in float32. They contain the
        # inputs of the halves, and temporary values.
        self.work, self.wide = Buffers(self.like), Buffers(self.like.float())
        self.shared = {Attention: Buffers(self.like), MLP: Buffers(self.like)}
        self.halves: list[Half] = []
        for layer in layers:
            a, m = layer.self_attn, layer.mlp
            self.halves += [
                Attention(self, layer.input_layernorm, [a.q_proj, a.k_proj, a.v_proj], [a.o_proj]),
                MLP(self, layer.post_attention_layernorm, [m.gate_proj, m.up_proj], [m.down_proj]),
            ]
        self.halves[-2].answers_only = True
        self.norm = Norm(self, base.model.norm)
        self.linears = [part for half in self.halves for part in (half.into, half.out)]

    def backward(self, batch: dict[str, Tensor], scale: Tensor | float) -> Tensor:
        """Add the gradients of the sum of all losses, multiplied by `scale`, to all `.grad`.

        Args:
            batch: The result of `sft.pack`.
            scale: The factor of the losses, such as 1 divided by the number of answer tokens.

        Returns:
            The sum of the losses of all answer tokens in nats, without `scale`.
        """
        for adapter in (adapter for part in self.linears for adapter in (*part.A, *part.B)):
            if adapter.grad is None:
                adapter.grad = torch.zeros_like(adapter)
        with torch.inference_mode():
            xs = self._forward(batch, keep=True)
            losses, g = self._head(xs.pop(), scale)
            for half, x in zip(reversed(self.halves), reversed(xs), strict=True):
                threads.adapt()
                g = half.backward(x, g)
            return losses.sum()

    @torch.inference_mode()
    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of each answer token of a batch (`sft.pack`) in nats, (R,), float32."""
        return self._head(self._forward(batch, keep=False)[-1], scale=1.0)[0]

    def _forward(self, batch: dict[str, Tensor], keep: bool) -> list[Tensor]:
        """Return the input of each attention, of each MLP, and of the last norm.

        Without `keep`, each input overwrites the input two places before it, so at the end only the
        last two inputs are valid.
        """
        for part in self.linears:
            part.refresh()
        ids, targets = batch["input_ids"][0], batch["labels"][0, 1:]
        self.places = Places(self, batch["lengths"], batch["position_ids"][0])
        self.rows = (targets != IGNORE).nonzero().squeeze(1)  # (R,)
        self.targets = targets[self.rows]
        D = self.embedding.shape[1]
        xs = [self.work("x 0", len(ids), D).copy_(self.embedding[ids])]
        for j, half in enumerate(self.halves, start=1):
            tokens = len(self.rows) if half.answers_only else len(xs[-1])
            xs.append(self.work(f"x {j if keep else j % 2}", tokens, D))
            threads.adapt()
            half.forward(xs[-2], xs[-1])
        return xs

    def _head(self, x: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the loss of each answer token, (R,), and the gradient of x, (R, D)."""
        n = self.norm.forward(x, self.work("n", *x.shape))
        logits = torch.mm(n, self.head.T, out=self.work("logits", len(x), len(self.head)))
        losses, size = torch.empty(len(x)), max(1, CHUNK // len(self.head))
        parts = (tensor.split(size) for tensor in (logits, self.targets, losses))
        for z, target, loss in zip(*parts, strict=True):
            row, wide = torch.arange(len(z)), z.float()
            # torch's log_softmax sums the V exponentials less accurately than logsumexp does.
            log_sum = wide.logsumexp(-1, keepdim=True)
            loss.copy_(log_sum.squeeze(1) - wide[row, target])
            dz = wide.sub_(log_sum).exp_()  # ∂z = softmax(z) − one-hot(target)
            dz[row, target] -= 1
            z.copy_(dz.mul_(scale))
        g = self.work("g", *x.shape).zero_()
        self.norm.backward(x, torch.mm(logits, self.head, out=n), g)
        return losses, g


def dtype_of(model: PreTrainedModel | PeftModel) -> torch.dtype:
    """Return the dtype in which a model that `supports` returns True for is computed."""
    base = base_llama(model)
    assert base is not None
    return product_dtype(base_layer(next(linears(base))))


def supports(model: PreTrainedModel | PeftModel) -> bool:
    """Return whether `LlamaByHand` can train a model: a Llama with LoRA on a CPU.

    The linear layers q, k, v, o, gate, up and down must all compute in float32 or all in bfloat16,
    and may be 4-bit layers. Each may have one active adapter in float32, without dropout, and at
    least one layer must have one. Nothing else may be trainable.
    """
    base = base_llama(model)
    if base is None or not has_plain_adapters(layers := list(linears(base))):
        return False
    dtypes = {product_dtype(base_layer(layer)) for layer in layers}
    adapted = [layer for layer in layers if hasattr(layer, "lora_A")]
    adapters = {part for layer in adapted for part in adapter_of(layer)[:2]}
    dropouts = (layer.lora_dropout[layer.active_adapters[0]] for layer in adapted)
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    return (
        bool(adapted)
        and len(dtypes) == 1
        and dtypes.issubset(DTYPES)
        and all(isinstance(dropout, nn.Identity) for dropout in dropouts)
        and all(part.dtype == torch.float32 for part in adapters)
        and trained in (set(), adapters)
    )
