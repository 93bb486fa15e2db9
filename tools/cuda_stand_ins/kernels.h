// Runs CUDA kernels on the CPU, one thread of them after another. With ON_CPU_TOGETHER the threads of a block
// may wait for each other: each has a stack of its own, and they take turns.
#pragma once
#include <cuda_runtime.h>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>
#include <device_launch_parameters.h>
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static  // blocks run one after another
namespace on_cpu {
inline uint3 thread, block;
inline dim3 threads, blocks;
#ifdef ON_CPU_TOGETHER
struct Turns {
    static constexpr size_t STACK = 1 << 17;
    std::function<void()> kernel;
    std::vector<ucontext_t> at;
    std::vector<char> stacks, done;
    ucontext_t home;
    size_t now;
} inline turns;
inline void wait_for_others() { swapcontext(&turns.at[turns.now], &turns.home); }
inline void one_thread() { turns.kernel(); turns.done[turns.now] = 1; }
template <class F> void run_block(F kernel) {
    size_t count = threads.x;
    turns.kernel = kernel, turns.at.resize(count), turns.stacks.resize(count*Turns::STACK), turns.done.assign(count, 0);
    for (size_t i = 0; i < count; i++) {
        getcontext(&turns.at[i]);
        turns.at[i].uc_stack.ss_sp = &turns.stacks[i*Turns::STACK];
        turns.at[i].uc_stack.ss_size = Turns::STACK;
        turns.at[i].uc_link = &turns.home;
        makecontext(&turns.at[i], one_thread, 0);
    }
    for (bool left = true; left;) {
        left = false;
        for (turns.now = 0; turns.now < count; turns.now++) {
            if (turns.done[turns.now]) continue;
            thread = {(unsigned)turns.now, 0, 0};
            swapcontext(&turns.home, &turns.at[turns.now]);
            left |= !turns.done[turns.now];
        }
    }
}
#else
inline void wait_for_others() {
    fputs("a kernel whose threads wait for each other: compile it with ON_CPU_TOGETHER\n", stderr);
    abort();
}
template <class F> void run_block(F kernel) {
    for (thread.z = 0; thread.z < threads.z; thread.z++) for (thread.y = 0; thread.y < threads.y; thread.y++)
        for (thread.x = 0; thread.x < threads.x; thread.x++) kernel();
}
#endif
template <class F> void run(dim3 grid, dim3 each, F kernel) {
    blocks = grid, threads = each;
    for (block.z = 0; block.z < grid.z; block.z++) for (block.y = 0; block.y < grid.y; block.y++)
        for (block.x = 0; block.x < grid.x; block.x++) run_block(kernel);
}
template <class F> void run(dim3 grid, dim3 each, size_t, F kernel) { run(grid, each, kernel); }
template <class F> void run(dim3 grid, dim3 each, size_t, cudaStream_t, F kernel) { run(grid, each, kernel); }
template <class To, class From> To bits(From v) { To to; std::memcpy(&to, &v, sizeof to); return to; }
}
#define threadIdx on_cpu::thread
#define blockIdx on_cpu::block
#define blockDim on_cpu::threads
#define gridDim on_cpu::blocks
inline void __syncthreads() { on_cpu::wait_for_others(); }
#define CHANGE(name, after) template <class T, class U> inline T name(T* p, U b) { T old = *p; *p = after; return old; }
CHANGE(atomicAdd, old + b) CHANGE(atomicMax, std::max(old, (T)b)) CHANGE(atomicMin, std::min(old, (T)b))
CHANGE(atomicAnd, old & b) CHANGE(atomicOr, old | b) CHANGE(atomicXor, old ^ b) CHANGE(atomicExch, b)
template <class T, class U, class V> inline T atomicCAS(T* p, U expected, V b) {
    T old = *p;
    if (old == (T)expected) *p = b;
    return old;
}
inline int __float_as_int(float v) { return on_cpu::bits<int>(v); }
inline unsigned __float_as_uint(float v) { return on_cpu::bits<unsigned>(v); }
inline float __int_as_float(int v) { return on_cpu::bits<float>(v); }
inline long long __double_as_longlong(double v) { return on_cpu::bits<long long>(v); }
inline double __longlong_as_double(long long v) { return on_cpu::bits<double>(v); }
template <class T> inline T max(T a, T b) { return a < b || a != a ? b : a; }
template <class T> inline T min(T a, T b) { return b < a || a != a ? b : a; }
inline float rsqrtf(float v) { return 1/std::sqrt(v); }
using std::isinf, std::isnan;
inline float erfinvf(float v) {
    double x = v, y = x == 0 ? 0 : std::copysign(std::sqrt(std::max(0.0, -std::log((1 - x)*(1 + x)))), x)*0.9;
    for (int i = 0; i < 60; i++) y -= (std::erf(y) - x)/(1.1283791670955126*std::exp(-y*y));
    return y;
}
