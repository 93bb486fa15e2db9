// erf within 1.3 units in the last place, in a form that the compiler vectorizes: a polynomial in x^2
// near zero, 1 - exp(t * polynomial in t) beyond it; both are Chebyshev fits.
#pragma once
#include "common.h"

static inline float erf_fast(float x) {
    float t = std::min(std::fabs(x), 10.f), s = x*x;
    float near = 8.20979685e-05f;
    near = near*s - 8.10444195e-04f; near = near*s + 5.19764256e-03f;
    near = near*s - 2.68580320e-02f; near = near*s + 1.12836710e-01f;
    near = near*s - 3.76126322e-01f; near = near*s + 1.28379166e-01f;
    float far = -1.25145860e-05f;
    far = far*t + 3.35368657e-04f; far = far*t - 3.69240045e-03f;
    far = far*t + 2.38652644e-02f; far = far*t - 1.06353901e-01f;
    far = far*t - 6.35082215e-01f; far = far*t - 1.12866511e+00f;
    return t < 0.95f ? near*x + x : std::copysign(1.f - std::exp(far*t), x);
}
