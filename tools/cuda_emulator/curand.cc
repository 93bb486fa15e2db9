// Random numbers of another generator than cuRAND's.
#include <curand.h>
#include <random>
static std::mt19937_64 generator;
template <class T> static curandStatus_t uniform(T* out, size_t n) {
    std::uniform_real_distribution<T> draw;
    for (size_t i = 0; i < n; i++) out[i] = 1 - draw(generator);  // (0, 1]
    return CURAND_STATUS_SUCCESS;
}
template <class T> static curandStatus_t normal(T* out, size_t n, T mean, T deviation) {
    if (n % 2) return CURAND_STATUS_LENGTH_NOT_MULTIPLE;
    std::normal_distribution<T> draw(mean, deviation);
    for (size_t i = 0; i < n; i++) out[i] = draw(generator);
    return CURAND_STATUS_SUCCESS;
}
extern "C" {
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t, unsigned long long seed) {
    generator.seed(seed);
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandGenerateUniform(curandGenerator_t, float* p, size_t n) { return uniform(p, n); }
curandStatus_t curandGenerateUniformDouble(curandGenerator_t, double* p, size_t n) { return uniform(p, n); }
curandStatus_t curandGenerateNormal(curandGenerator_t, float* p, size_t n, float m, float d) { return normal(p, n, m, d); }
curandStatus_t curandGenerateNormalDouble(curandGenerator_t, double* p, size_t n, double m, double d) { return normal(p, n, m, d); }
}
