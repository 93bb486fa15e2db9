"""What the kernels share: when they apply, and the heads of their C++ and CUDA texts.

A kernel is a `Function` around `jt.code`. Jittor compiles each distinct text once: numbers go
in through `data=`, sizes are read from the inputs, so that a new image size compiles nothing.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jfusion.runtime import jt


@cache
def source(*names: str) -> str:
    """The text of files in csrc/ ("conv.h"), one after the other, to go in front of a kernel's call."""
    folder = Path(__file__).with_name("csrc")
    return "".join((folder / name).read_text(encoding="utf-8") for name in names)


# oneDNN's matrix product (row-major; Jittor has loaded the library already). Inside an OpenMP
# region it runs on the calling thread, outside on all of them.
HEADER = """
#include <algorithm>
#include <cmath>
#include <cstring>
#include <omp.h>
#include <vector>
extern "C" int dnnl_sgemm(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha,
    const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);
"""

# A block has THREADS threads; block (a, b) is the b-th of those that share piece a of the work (a plane
# of pixels, mostly). Sums are added in a fixed order, so that a seed gives the same numbers on every run:
# within a block by halves, over blocks by the caller.
CUDA_HEADER = """
#include <algorithm>
#include <cmath>
static const int THREADS = 256;
// The grid for `pieces` pieces of n values.
static inline dim3 grid_for(int64_t pieces, int64_t n) {
    return dim3(pieces, std::max<int64_t>(1, std::min<int64_t>((n + THREADS - 1)/THREADS, 1 << 15)));
}
// The values i < n of a piece that are this thread's.
#define OWN(i, n) (int64_t i = blockIdx.y*blockDim.x + threadIdx.x; i < (n); i += gridDim.y*blockDim.x)
// The greatest, or the sum, of v over the threads of a block, to each of them.
template <bool GREATEST> static __device__ inline float block_fold(float v) {
    __shared__ float part[THREADS];
    part[threadIdx.x] = v;
    __syncthreads();
    for (int half = THREADS/2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            float a = part[threadIdx.x], b = part[threadIdx.x + half];
            part[threadIdx.x] = GREATEST ? fmaxf(a, b) : a + b;
        }
        __syncthreads();
    }
    float all = part[0];
    __syncthreads();
    return all;
}
static __device__ inline float block_max(float v) { return block_fold<true>(v); }
static __device__ inline float block_sum(float v) { return block_fold<false>(v); }
"""


class Function(jt.Function):
    """Jittor's, but its slopes have no slopes: for those Jittor would keep all that they were made from."""

    def _grad(self, *slopes: jt.Var) -> list[jt.Var | None]:
        made = super()._grad(*slopes)
        return [v if v is None else v.stop_grad() for v in made]


def use_kernel(*inputs: jt.Var, cuda: bool = False) -> bool:
    """Whether a kernel applies: every input float32, and no CUDA unless it has a form for it too."""
    return (cuda or not jt.flags.use_cuda) and all(str(v.dtype) == "float32" for v in inputs)


def shares(pixels: int) -> int:
    """How many of a GPU's blocks share a sum over `pixels`."""
    return min(128, -(-pixels // 4096))
