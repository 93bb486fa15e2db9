"""What the CPU kernels share: when they apply, and the head of their C++ text.

A kernel is a `jt.Function` around `jt.code`. Jittor compiles each distinct text once: numbers go
in through `data=`, sizes are read from the inputs, so that a new image size compiles nothing.
"""

from __future__ import annotations

from jfusion.runtime import jt

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


def use_kernel(*inputs: jt.Var) -> bool:
    """Whether the CPU kernels apply: no CUDA, and every input float32."""
    return not jt.flags.use_cuda and all(str(v.dtype) == "float32" for v in inputs)
