// A vector of the processor's registers.
#pragma once
#include "common.h"

// As wide as a register: the compiler takes a wider vector apart, which is 14 times slower.
#ifdef __AVX512F__
typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
#else
typedef float Lanes __attribute__((vector_size(32), aligned(4), may_alias));
#endif
static const int64_t LANES = sizeof(Lanes)/sizeof(float);
static inline const Lanes& load(const float* p) { return *(const Lanes*)p; }
