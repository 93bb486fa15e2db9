"""Softmax over the last axis."""

from __future__ import annotations

from jfusion.ops.kernels import CUDA_HEADER, HEADER, Function, use_kernel
from jfusion.runtime import jt


def softmax(x: jt.Var) -> jt.Var:
    """Softmax over the last axis."""
    return _Softmax()(x) if use_kernel(x, cuda=True) else plain_softmax(x)


def plain_softmax(x: jt.Var) -> jt.Var:
    """The same from stock Jittor (its sums over thousands of values lose two digits in float32)."""
    e = jt.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


_SOFTMAX = (
    CUDA_HEADER
    + """
// A piece is a row of S values.
static __global__ void softmax(const float* x, float* y, int64_t S) {
    x += blockIdx.x*(int64_t)S; y += blockIdx.x*(int64_t)S;
    float top = -INFINITY, sum = 0;
    for OWN(j, S) top = fmaxf(top, x[j]);
    top = block_max(top);
    for OWN(j, S) { float e = expf(x[j] - top); y[j] = e; sum += e; }
    sum = block_sum(sum);
    for OWN(j, S) y[j] /= sum;
}
static __global__ void slope(const float* y, const float* g, float* dx, int64_t S) {
    y += blockIdx.x*(int64_t)S; g += blockIdx.x*(int64_t)S; dx += blockIdx.x*(int64_t)S;
    float dot = 0;
    for OWN(j, S) dot += y[j]*g[j];
    dot = block_sum(dot);
    for OWN(j, S) dx[j] = y[j]*(g[j] - dot);
}
"""
)


class _Softmax(Function):
    def execute(self, x: jt.Var) -> jt.Var:
        self.saved = softmax_forward(x)
        return self.saved

    def grad(self, g: jt.Var) -> jt.Var:
        return jt.code(
            g.shape,
            g.dtype,
            [self.saved, g],
            cpu_header=HEADER,
            cpu_src="""
            int64 S = in0->shape[in0->shape.size() - 1], rows = in0->num / S;
            #pragma omp parallel for
            for (int64 r = 0; r < rows; r++) {
                const float *y = in0_p + r*S, *g = in1_p + r*S;
                float *dx = out_p + r*S, dot = 0;
                #pragma omp simd reduction(+:dot)
                for (int64 j = 0; j < S; j++) dot += y[j]*g[j];
                for (int64 j = 0; j < S; j++) dx[j] = y[j]*(g[j] - dot);
            }
            """,
            cuda_header=_SOFTMAX,
            cuda_src="""
            int64_t S = in0->shape[in0->shape.size() - 1];
            slope<<<in0->num/S, THREADS>>>(in0_p, in1_p, out_p, S);
            """,
        )


def softmax_forward(x: jt.Var) -> jt.Var:
    """The kernel of `softmax`, without a gradient."""
    return jt.code(
        x.shape,
        x.dtype,
        [x],
        cpu_header=HEADER,
        cpu_src="""
        int64 S = in0->shape[in0->shape.size() - 1], rows = in0->num / S;
        #pragma omp parallel for
        for (int64 r = 0; r < rows; r++) {
            const float* x = in0_p + r*S;
            float *y = out_p + r*S, top = x[0], sum = 0;
            #pragma omp simd reduction(max:top)
            for (int64 j = 0; j < S; j++) top = x[j] > top ? x[j] : top;
            #pragma omp simd reduction(+:sum)
            for (int64 j = 0; j < S; j++) { float e = std::exp(x[j] - top); y[j] = e; sum += e; }
            for (int64 j = 0; j < S; j++) y[j] /= sum;
        }
        """,
        cuda_header=_SOFTMAX,
        cuda_src="""
        int64_t S = in0->shape[in0->shape.size() - 1];
        softmax<<<in0->num/S, THREADS>>>(in0_p, out_p, S);
        """,
    )
