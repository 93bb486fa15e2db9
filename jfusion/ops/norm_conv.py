"""GroupNorm, SiLU, dropout and a convolution in one, keeping only its input for the gradient.

What stands between the input and the convolution is as large as the input, and cheap beside the
convolution: the gradient makes it again.
"""

from __future__ import annotations

from jfusion.ops.conv import convolve, plain_conv, slopes
from jfusion.ops.group_norm import group_norm, group_norm_backward, group_norm_forward
from jfusion.ops.kernels import CUDA_HEADER, HEADER, Function, use_kernel
from jfusion.runtime import jt

EPS = 1e-5


def norm_silu_conv(
    x: jt.Var,
    groups: int,
    norm: tuple[jt.Var, jt.Var],
    conv: tuple[jt.Var, jt.Var],
    dropout: float = 0.0,
) -> jt.Var:
    """conv(dropout(silu(group_norm(x)))), stride 1, zero padding.

    x (N, C, H, W); norm: weight and bias (C,); conv: weight (O, C, K, K), K odd, and bias (O,).
    """
    scale, shift = (v.reshape(1, -1) for v in norm)
    seed = jt.rand(1) if dropout else jt.zeros(1)
    if not use_kernel(x, scale, conv[0]):
        y = group_norm(x, groups, scale, shift, EPS, silu=True)
        return plain_conv(_Dropout(dropout)(y, seed) if dropout else y, *conv)
    return _NormSiLUConv(groups, dropout)(x, scale, shift, *conv, seed)


class _NormSiLUConv(Function):
    def __init__(self, groups: int, dropout: float):
        super().__init__()
        self.settings, self.dropout = (groups, EPS, True), dropout

    def execute(
        self,
        x: jt.Var,
        scale: jt.Var,
        shift: jt.Var,
        weight: jt.Var,
        bias: jt.Var,
        seed: jt.Var,
    ) -> jt.Var:
        self.saved = x, scale, shift, weight, seed
        y, _ = group_norm_forward(x, scale, shift, *self.settings)
        return convolve(self._dropped(y, seed), weight, bias)

    def grad(self, g: jt.Var) -> tuple[jt.Var | None, ...]:
        x, scale, shift, weight, seed = self.saved
        y, statistics = group_norm_forward(x, scale, shift, *self.settings, after=g)
        slope, dw, db = slopes(self._dropped(y, seed), weight, g)
        slope = self._dropped(slope, seed)
        back = group_norm_backward(x, scale, shift, statistics, slope, *self.settings)
        return *back, dw, db, None

    def _dropped(self, x: jt.Var, seed: jt.Var) -> jt.Var:
        return dropped(x, seed, self.dropout) if self.dropout else x


class _Dropout(Function):
    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def execute(self, x: jt.Var, seed: jt.Var) -> jt.Var:
        self.saved = seed
        return dropped(x, seed, self.share)

    def grad(self, g: jt.Var) -> tuple[jt.Var, None]:
        return dropped(g, self.saved, self.share), None


def dropped(x: jt.Var, seed: jt.Var, share: float) -> jt.Var:
    """x with a share of its values 0 and the rest scaled up; which ones depends on `seed` (1,) alone.

    A value's fate is a hash of the seed and its place (MurmurHash3's last steps), so that the gradient
    need not keep it.
    """
    return jt.code(
        x.shape,
        x.dtype,
        [x, seed],
        cpu_header=HEADER,
        data={"share": share},
        cpu_src="""
        float share = data["share"], scale = 1/(1 - share);
        uint32_t start;
        memcpy(&start, in1_p, 4);
        const uint32_t limit = (uint32_t)((double)share*4294967296.0);
        #pragma omp parallel for simd
        for (int64 i = 0; i < in0->num; i++) {
            uint32_t h = start*0x9e3779b9u + (uint32_t)i;
            h ^= h >> 16; h *= 0x85ebca6bu; h ^= h >> 13; h *= 0xc2b2ae35u; h ^= h >> 16;
            out_p[i] = h < limit ? 0.f : in0_p[i]*scale;
        }
        """,
        cuda_header=CUDA_HEADER
        + """
static __global__ void drop(const float* x, const float* seed, float* y, int64_t n, unsigned limit, float scale) {
    unsigned start = __float_as_uint(seed[0]);
    for OWN(i, n) {
        unsigned h = start*0x9e3779b9u + (unsigned)i;
        h ^= h >> 16; h *= 0x85ebca6bu; h ^= h >> 13; h *= 0xc2b2ae35u; h ^= h >> 16;
        y[i] = h < limit ? 0.f : x[i]*scale;
    }
}
""",
        cuda_src="""
        double share = data["share"];
        drop<<<grid_for(1, in0->num), THREADS>>>(in0_p, in1_p, out_p, in0->num, (unsigned)(share*4294967296.0),
                                                 1/(1 - share));
        """,
    )
