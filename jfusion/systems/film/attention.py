"""FILM's attention from a paragraph to an image, and its kernel."""

from __future__ import annotations

from jfusion.ops.activation import copy
from jfusion.ops.checks import check_divisible, check_float, check_shape
from jfusion.ops.kernels import Function, call_kernel, use_kernel
from jfusion.ops.matmul import linear, matmul
from jfusion.ops.softmax import softmax, softmax_forward
from jfusion.runtime import jt, nn


class CrossAttention(nn.Module):
    """Multi-head attention with PyTorch's packed parameters (`in_proj_weight`, `out_proj`).

    `execute` is the standard form; FILM uses the mean over the queries, which `pooled` computes at a
    fraction of the work.
    """

    def __init__(self, dim: int, heads: int = 8):
        bound = (6 / (4 * dim)) ** 0.5  # Xavier over the packed (3 dim, dim) matrix
        self.heads = heads
        self.in_proj_weight = jt.init.uniform([3 * dim, dim], "float32", -bound, bound)
        self.in_proj_bias = jt.zeros(3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.out_proj.bias.assign(jt.zeros(dim))

    def execute(self, query: jt.Var, key: jt.Var, value: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Returns the result (N, T, E), and the mean of the weights over the heads (N, T, S).

        query (N, T, E), key and value (N, S, E).
        """
        d = query.shape[-1]
        w, b = self.in_proj_weight, self.in_proj_bias
        packed = zip((query, key, value), (0, d, 2 * d), strict=True)
        q, k, v = (_split(linear(x, w[i : i + d], b[i : i + d]), self.heads) for x, i in packed)
        weights = softmax(matmul(q, k, tb=True) * (d // self.heads) ** -0.5)
        return linear(
            _joined(matmul(weights, v)), self.out_proj.weight, self.out_proj.bias
        ), weights.mean(1)

    def pooled(self, query: jt.Var, tokens: jt.Var) -> jt.Var:
        """Returns the mean of `execute(query, tokens, tokens)` over the queries, (N, E).

        query (N, T, E), tokens (N, S, E). Exact up to rounding, by three identities: the mean over the
        queries commutes with everything after the softmax, so one averaged row of weights per head is
        enough; the values' projection commutes with the weighted sum, so it is applied once per head
        and not to every token; and the key bias cancels in the softmax.
        """
        n, _, d = query.shape
        h, dh = self.heads, d // self.heads
        w, b = self.in_proj_weight, self.in_proj_bias
        q = linear(query, w[:d], b[:d]) * dh**-0.5
        k = linear(tokens, w[d : 2 * d])
        mixed = averaged_attention(q, k, tokens, h)  # (N, h, E)
        # head i reads its own dh rows of the value projection
        values = matmul(
            mixed.transpose(1, 0, 2), w[2 * d :].reshape(h, dh, d), tb=True
        )  # (h, N, dh)
        joined = values.transpose(1, 0, 2).reshape(n, d) + b[2 * d :]
        return linear(joined, self.out_proj.weight, self.out_proj.bias)


def averaged_attention(q: jt.Var, k: jt.Var, x: jt.Var, heads: int) -> jt.Var:
    """Returns the mean over the queries of softmax(q_h k_h^T), times x: one row for each head h.

    q (N, T, D), already scaled; k (N, S, D); x (N, S, E) -> (N, heads, E). Head h has components
    h*D/heads .. (h+1)*D/heads - 1 of q and k.
    """
    op = "averaged_attention"
    check_float(op, q=q, k=k, x=x)
    check_shape(op, "q", q, ("N", "T", "D"))
    n, _, width = q.shape
    check_shape(op, "k", k, (n, "S", width), "for this q")
    check_shape(op, "x", x, (n, k.shape[1], "E"), "for this k")
    check_divisible(op, "the last axis of q", width, heads)
    if use_kernel(q, k, x):
        return _AveragedAttention(heads)(q, k, x)
    if use_kernel(q, k, x, cuda=True):
        return _AveragedAttentionCuda(heads)(q, k, x)
    return averaged_attention_reference(q, k, x, heads)


def averaged_attention_reference(q: jt.Var, k: jt.Var, x: jt.Var, heads: int) -> jt.Var:
    """`averaged_attention` from stock Jittor."""
    weights = softmax(jt.matmul(_split(q, heads), _split(k, heads).transpose(0, 1, 3, 2)))
    return jt.matmul(weights.mean(2), x)


def _split(x: jt.Var, heads: int) -> jt.Var:
    """(N, T, D) -> (N, heads, T, D / heads)."""
    n, t, d = x.shape
    return x.reshape(n, t, heads, d // heads).transpose(0, 2, 1, 3)


def _joined(x: jt.Var) -> jt.Var:
    """The inverse of `_split`."""
    n, heads, t, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(n, t, heads * d)


class _AveragedAttentionCuda(Function):
    """The (N, heads, T, S) weights are not kept; the gradient computes them again."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def execute(self, q: jt.Var, k: jt.Var, x: jt.Var) -> jt.Var:
        q, k, x = (v.detach() for v in (q, k, x))
        q, k = _split(q, self.heads), _split(k, self.heads)
        weights = softmax_forward(matmul(q, k, tb=True)).mean(2)
        self.saved = q, k, x, weights
        return matmul(weights, x)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        q, k, x, weights = self.saved
        g = g.detach()
        d_weights = matmul(g, x, tb=True).unsqueeze(2)
        rows = softmax_forward(matmul(copy(q, depends_on=g), k, tb=True))
        dot = (rows * d_weights).sum(3, keepdims=True)
        d_logits = rows * (d_weights - dot) / q.shape[2]
        d_q, d_k = matmul(d_logits, k), matmul(d_logits, q, ta=True)
        return _joined(d_q), _joined(d_k), matmul(weights, g, ta=True)


class _AveragedAttention(Function):
    """The kernel takes a few queries at a time, so that their weights stay in the cache and the
    (N, heads, T, S) weights never exist; the gradient computes them again."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def execute(self, q: jt.Var, k: jt.Var, x: jt.Var) -> jt.Var:
        weights = call_kernel(
            "averaged_weights_forward(q_p, k_p, mean_p, q_shape0, q_shape1, k_shape1, q_shape2, mean_shape1)",
            {"q": q, "k": k},
            {"mean": [x.shape[0], self.heads, x.shape[1]]},
            cpu="cross_attention.h",
        )
        self.saved = q, k, x, weights
        return matmul(weights, x)

    def grad(self, g: jt.Var) -> tuple[jt.Var, jt.Var, jt.Var]:
        q, k, x, weights = self.saved
        d_q, d_k = call_kernel(
            "averaged_weights_backward(q_p, k_p, d_mean_p, d_q_p, d_k_p, q_shape0, q_shape1, k_shape1,"
            " q_shape2, d_mean_shape1)",
            {"q": q, "k": k, "d_mean": matmul(g, x, tb=True)},
            {"d_q": q.shape, "d_k": k.shape},
            cpu="cross_attention.h",
        )
        return d_q, d_k, matmul(weights, g, ta=True)
