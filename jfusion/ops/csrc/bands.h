// Convolutions of a band of rows: a 1x1 one widens a few rows, and a depthwise 3x3 one reads them while they are in the
// cache.
#pragma once
#include "depthwise3x3.h"
#include "norm.h"

namespace {
// Rows [first, last) of an image, which are in a buffer; every other row is zero.
struct Window {
    const float* data;
    int64_t first, last, W;
    const float* zero;
    const float* row(int64_t i) const { return i < first || i >= last ? zero : data + (i - first)*W; }
};
}  // namespace

// Rows of a band: about `values` values of one channel, but at least 4 rows.
static inline int64_t rows_per_band(int64_t H, int64_t W, int64_t values) {
    return std::max<int64_t>(std::min<int64_t>(H, 4), std::min<int64_t>(H, values/W));
}

// y: rows [first, last) of the depthwise convolution of x with the weights k.
static inline void depthwise3x3_rows(const Window& x, const float* k, float* y, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++, y += x.W)
        depthwise3x3_row(x.row(i-1), x.row(i), x.row(i+1), k, y, x.W);
}

// to (C, values), rows `stride` apart: the first `values` pixels of x, whose rows are P apart, normalized over the
// channels where there are a weight and a bias (C) for that.
static inline void copy_normal(const float* x, int64_t P, const float* weight, const float* bias, float* to,
                               int64_t stride, int64_t C, int64_t values) {
    copy_rows(x, P, to, stride, C, values);
    if (weight) layer_norm_in_place(to, stride, weight, bias, C, values);
}
