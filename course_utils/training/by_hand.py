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
    C  of these, tokens with which   F  width of the MLP         P  places of each sequence
       all sequences begin           H  query heads              n  sequences of a block
    R  tokens whose next token       K  key and value heads      m  places of a block in each
       is part of an answer          G  query heads of each         of these sequences
    V  tokens in the vocabulary         key head: H / K
    r  rank of an adapter            d  width of a head

A step that changes the adapters:

    llama = LlamaByHand(peft_model)
    loss = llama.backward(batch, 1 / answer_tokens)
    torch.nn.utils.clip_grad_norm_(peft_model.parameters(), 1.0)
    optimizer.step()

On a CPU, such a step is faster than a step with autograd for four reasons. Large tensors are
reused in every step. The tokens of all sequences follow each other in one long sequence, so only
attention needs padding. The tokens with which all sequences begin, such as a system message, are
computed once. Values that no loss and no gradient needs are not computed.
docs/performance.md has the measurements.

References: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), LoRA (Hu et al. 2021, arXiv 2106.09685),
gradient checkpointing (Chen et al. 2016, arXiv 1604.06174), Llama (Touvron et al. 2023, arXiv
2302.13971), rotary embeddings (Su et al. 2021, arXiv 2104.09864).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

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

# The places of a sequence are divided into this many stripes. The queries of the first stripe
# attend to the first third of the keys, those of the second to two thirds, and those of the last to
# all. So a third of all scores, which the mask would hide, is not computed.
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

        tokens of three sequences     s s a a a b b b b b c c     C = 2
        places of keys, P = 9         s s a a a . . . .   s s b b b b b . .   s s c c . . . . .
        places of queries             s s   a b c   a a . b b b c . .   . . . b . . . . .

    The sequences begin with the same C tokens. Their keys and values are copied to each sequence,
    but their queries are there only once. In each sequence, the empty places follow the tokens, so
    the causal mask hides them. Rows of keys and values are in the order (N, K, P). Rows of queries
    are ordered by block, and within a block of m places by (n, K, m).

    Attributes:
        blocks: For each block, the number n of its sequences, and its places as (start, end). The
            first block has the C tokens of one sequence, and the others the stripes of all.
        tokens_of: For each row of "q", "k" and "v" in places, the row of (T·K, …) that is copied to
            it. To an empty place, an arbitrary row is copied.
        rows_of: For each row of (T·K, …), its row in the places of "q", "k" and "v". For the C
            tokens, it is the row in the first sequence.
        empty: The rows of queries that belong to empty places.
        cos, sin: Cosine and sine of the angles by which each token's heads are rotated,
            (T, 1, d/2).
        mask: What is added to the scores of a block's queries with the keys of the same places. A
            block of m places uses the upper left part, (m·G, m).
    """

    def __init__(self, llama: LlamaByHand, lengths: Tensor, C: int, positions: Tensor):
        T, N, head = len(positions), len(lengths), torch.arange(llama.K)[:, None]
        rests = lengths - C
        rests[-1] += T - C - rests.sum()  # padding, which follows the last sequence
        step = 16 * STRIPES
        self.N, self.C, self.P = N, C, -(-int(rests.max() + C) // step) * step
        ends = range(self.P // STRIPES, self.P + 1, self.P // STRIPES)
        stripes = [(N, max(C, end - ends.step), end) for end in ends if end > C]
        self.blocks = [(1, 0, C), *stripes] if C else stripes
        place = torch.arange(self.P)
        first = (rests.cumsum(0) - rests)[:, None]
        tokens = torch.where(place < C, place, first + place).clamp(max=T - 1)  # (N, P)
        used = place < (C + rests)[:, None]  # (N, P)
        used[1:, :C] = False
        tokens, used = tokens[:, None] * llama.K + head, used[:, None].expand(-1, llama.K, -1)
        self.tokens_of, self.rows_of = {}, {}
        for name, rows in (("q", self._of_queries), ("k", torch.flatten), ("v", torch.flatten)):
            self.tokens_of[name], places = rows(tokens), rows(used).nonzero().squeeze(1)
            self.rows_of[name] = places[self.tokens_of[name][places].argsort()]
        self.empty = (~self._of_queries(used)).nonzero().squeeze(1)
        angles = positions[:, None, None] * llama.inv_freq
        self.cos, self.sin = angles.cos().to(llama.like), angles.sin().to(llama.like)
        size = max(end - start for _, start, end in self.blocks)
        mask = llama.like.new_full((size, size), -math.inf).triu_(1)
        self.mask = mask.repeat_interleave(llama.G, 0)

    def _of_queries(self, x: Tensor) -> Tensor:
        """Return the rows of queries of x, (N, K, P)."""
        return torch.cat([x[:n, :, start:end].flatten() for n, start, end in self.blocks])


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
    `out`. With "some", the outputs of `into`, which take longest to recompute, are kept, too.

    Attributes:
        products: The buffers into which the layers of `into` write.
        kept: The buffers of all other activations.
        answers_only: Whether y is computed only for the R tokens whose next token is part of an
            answer. True only for the attention of the last layer, so the MLP of that layer gets
            only these R tokens.
    """

    answers_only = False

    def __init__(self, llama: LlamaByHand, norm: Any, into: list[Any], out: list[Any]):
        self.llama, self.norm = llama, Norm(llama, norm)
        self.into, self.out = Linears(llama, into), Linears(llama, out)
        shared, own = llama.shared[type(self)], Buffers(llama.like)
        self.products = shared if llama.checkpointing not in (False, "some") else own
        self.kept = shared if llama.checkpointing else own

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Compute y, (T or R, D), from x, (T, D)."""
        self.products.owner = None
        self.compute_z(x, self.into.weights())
        self.out.forward(self.z, self.out.weights(), [y])
        y.add_(x[self.llama.rows] if self.answers_only else x)

    def compute_z(self, x: Tensor, weights: list[Tensor]) -> None:
        """Compute the activations n = norm(x) and z = inner(into(n)), and keep them."""
        self.n = self.norm.forward(x, self.kept("n", *x.shape))
        if self.products.owner is not self:
            self.multiply(weights)
            self.products.owner = self
        self.z = self.inner()
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

    def multiply(self, weights: list[Tensor]) -> None:
        """Compute what z needs of into(n), from self.n and the weights of `into`."""
        raise NotImplementedError

    def inner(self) -> Tensor:
        """Compute z, (T, …), from the results of `multiply`."""
        raise NotImplementedError

    def inner_backward(self, dz: Tensor) -> list[Tensor]:
        """Compute the gradients of the outputs of `into` from ∂z, (T, …)."""
        raise NotImplementedError


class MLP(Half):
    """z = silu(gate) · up, all of shape (T, F), where silu(x) = x · sigmoid(x)."""

    def multiply(self, weights: list[Tensor]) -> None:
        """Compute gate and up."""
        shape = len(self.n), len(weights[0])
        self.gate_up = [self.products(name, *shape) for name in ("gate", "up")]
        self.into.forward(self.n, weights, self.gate_up)

    def inner(self) -> Tensor:
        """Compute z from gate and up."""
        gate, up = self.gate_up
        self.act = torch.ops.aten.silu.out(gate, out=self.kept("act", *gate.shape))
        return torch.mul(self.act, up, out=self.kept("z", *gate.shape))

    def inner_backward(self, dz: Tensor) -> list[Tensor]:
        """Compute ∂gate and ∂up in the memory of up and act, which are not needed any more."""
        gate, up = self.gate_up
        dact, dup = up.mul_(dz), self.act.mul_(dz)
        return [torch.ops.aten.silu_backward.grad_input(dact, gate, grad_input=dact), dup]


class Attention(Half):
    """z = softmax(q kᵀ / √d) v, where each token attends only to itself and earlier tokens.

    The G query heads that share a key head are stacked: each place has G rows of queries. So q and
    the result of attention (o in the code) have the shape (S, N·K, p·G, d), and k and v have the
    shape (N·K, P, d).
    """

    def multiply(self, weights: list[Tensor]) -> None:
        """Compute q, k and v, and rotate q and k."""
        llama, T = self.llama, len(self.n)
        # q and k are needed only until they are rotated.
        buffers = {"q": llama.work, "k": llama.work, "v": self.products}
        qkv = [buffers[name](name, T, heads * llama.d) for name, heads in llama.heads.items()]
        self.into.forward(self.n, weights, qkv)
        self.rotated = self._rotated(qkv, 1, self.products)

    def inner(self) -> Tensor:
        """Compute z, (T, H·d), from q, k and v."""
        llama, rotated = self.llama, zip("qkv", self.rotated, strict=True)
        self.qkv = q, k, v = [self._in_places(name, x, self.kept) for name, x in rotated]
        o = llama.work("o", *q.shape)
        for q_b, o_b, k_b, v_b, softmax, start in self._blocks(q, o, k, v):
            scores = torch.bmm(q_b, k_b.mT, out=llama.work("scores", *softmax.shape))
            mine = scores[..., start:]
            mine.add_(llama.places.mask[: mine.shape[1], : mine.shape[2]])
            torch.bmm(torch.softmax(scores, -1, out=softmax), v_b, out=o_b)
        return self._by_token("q", o, self.kept("z", len(self.n), llama.H * llama.d))

    def inner_backward(self, dz: Tensor) -> list[Tensor]:
        """Compute ∂q, ∂k and ∂v, (T, heads·d), from ∂z, (T, H·d)."""
        llama, work, (q, k, v) = self.llama, self.llama.work, self.qkv
        do = self._in_places("q", dz, work).index_fill_(0, llama.places.empty, 0)
        dq, dk, dv = (work(f"d{name}", *x.shape) for name, x in zip("qkv", self.qkv, strict=True))
        forward, gradients = self._blocks(q, do, k, v), self._blocks(dq, do, dk, dv)
        # The last stripe attends to all keys, so it is computed first and sets all of dk and dv.
        # The other blocks then add their part to dk and dv.
        for parts, d_parts in reversed(list(zip(forward, gradients, strict=True))):
            (q_b, do_b, k_b, v_b, softmax, _), (dq_b, _, dk_b, dv_b, *_) = parts, d_parts
            dsoftmax = torch.bmm(do_b, v_b.mT, out=work("scores", *softmax.shape))
            ds = work("ds", *softmax.shape)
            torch._softmax_backward_data(dsoftmax, softmax, -1, ds.dtype, grad_input=ds)
            torch.bmm(ds, k_b, out=dq_b)
            for d_b, left, right in ((dk_b, ds, q_b), (dv_b, softmax, do_b)):
                if d_b.shape[1] == llama.places.P:
                    torch.bmm(left.mT, right, out=d_b)
                else:
                    d_b.baddbmm_(left.mT, right)
        for x in (dk, dv):
            shared = x.view(llama.places.N, llama.K, -1, llama.d)[:, :, : llama.places.C]
            shared[0] += shared[1:].sum(0)
        tokens = [
            self._by_token(name, x, work(name, len(dz), llama.heads[name] * llama.d))
            for name, x in zip("qkv", (dq, dk, dv), strict=True)
        ]
        return self._rotated(tokens, -1, work)

    def _blocks(self, q: Tensor, o: Tensor, k: Tensor, v: Tensor) -> Iterator[tuple]:
        """Yield the parts of q, o, k and v in each block, its softmax, and its first place.

        The shapes are (n·K, m·G, d) for q and o, (n·K, end, d) for k and v, and (n·K, m·G, end) for
        the softmax, where `end` is the number of keys.
        """
        K, d, places = self.llama.K, self.llama.d, self.llama.places
        sizes = [n * K * (end - start) for n, start, end in places.blocks]
        parts = zip(places.blocks, q.split(sizes), o.split(sizes), strict=True)
        for i, ((n, start, end), q_b, o_b) in enumerate(parts):
            q_b, o_b = q_b.view(n * K, -1, d), o_b.view(n * K, -1, d)
            k_b, v_b = (x.view(-1, places.P, d)[: n * K, :end] for x in (k, v))
            yield q_b, o_b, k_b, v_b, self.kept(f"softmax {i}", *q_b.shape[:2], end), start

    def _in_places(self, name: str, x: Tensor, buffers: Buffers) -> Tensor:
        """Copy tokens to their places: q to (S, N·K, p·G, d), and k and v to (N·K, P, d)."""
        llama, rows = self.llama, x.view(len(x) * self.llama.K, -1)  # (T·K, G·d or d)
        order = llama.places.tokens_of[name]
        out = buffers(f"{name} in places", len(order), rows.shape[1])
        return torch.index_select(rows, 0, order, out=out)

    def _by_token(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        """Copy tokens from their places in x to `out`, (T, H·d) for queries, else (T, K·d)."""
        width = out.shape[1] // self.llama.K
        rows, chosen = x.view(-1, width), out.view(-1, width)  # (N·K·P, G·d or d), (T·K, …)
        torch.index_select(rows, 0, self.llama.places.rows_of[name], out=chosen)
        return out

    def _rotated(self, qkv: list[Tensor], direction: int, buffers: Buffers) -> list[Tensor]:
        """Rotate q and k, (T, heads·d), and divide q by √d. The direction −1 rotates back."""
        llama, places = self.llama, self.llama.places
        outs = []
        for x, name, scale in zip(qkv, "qk", (llama.d**-0.5, 1.0), strict=False):
            out, heads = buffers(f"rotated {name}", *x.shape), (len(x), -1, llama.d)
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
            checkpointing), which needs less memory and more time. With "some", the results of q, k,
            v, gate and up are not recomputed.
    """

    def __init__(self, model: PeftModel, checkpointing: bool | Literal["some"] = True):
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
        self.places = Places(self, batch["lengths"], int(batch["shared"]), batch["position_ids"][0])
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
