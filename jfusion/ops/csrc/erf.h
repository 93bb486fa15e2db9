// erf within 4e-7, in a form that the compiler vectorizes and without an exponential: x P(x^2)/Q(x^2) up to 3.92, where
// erf is 1 in float32. A fit of the smallest relative error, 2e-8 before rounding.
#pragma once
#include "common.h"

static inline float erf_fast(float x) {
    float t = std::min(std::max(x, -3.92f), 3.92f), s = t*t;
    float p = 2.05010404e-06f;
    p = p*s + 2.84882478e-04f; p = p*s + 3.76557441e-03f; p = p*s + 5.27485907e-02f;
    p = p*s + 1.90405374e-01f; p = p*s + 1.12837915e+00f;
    float q = 3.80918782e-05f;
    q = q*s + 1.16252661e-03f; q = q*s + 1.49691296e-02f; q = q*s + 1.14108671e-01f;
    q = q*s + 5.02075110e-01f; q = q*s + 1.f;
    return t*p/q;
}
