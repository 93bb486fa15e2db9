// Runs CUDA kernels on the CPU, one thread after another. With ON_CPU_TOGETHER the threads of a block may wait for
// each other: each has a stack of its own, and runs until it waits.
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
struct Scheduler {
    static constexpr size_t STACK = 1 << 17;
    std::function<void()> kernel;
    std::vector<ucontext_t> contexts;
    std::vector<char> stacks, done;
    ucontext_t home;
    size_t current;
} inline scheduler;
inline void wait_for_others() { swapcontext(&scheduler.contexts[scheduler.current], &scheduler.home); }
inline void one_thread() { scheduler.kernel(); scheduler.done[scheduler.current] = 1; }
template <class F> void run_block(F kernel) {
    size_t count = threads.x;
    scheduler.kernel = kernel, scheduler.contexts.resize(count), scheduler.stacks.resize(count*Scheduler::STACK), scheduler.done.assign(count, 0);
    for (size_t i = 0; i < count; i++) {
        getcontext(&scheduler.contexts[i]);
        scheduler.contexts[i].uc_stack.ss_sp = &scheduler.stacks[i*Scheduler::STACK];
        scheduler.contexts[i].uc_stack.ss_size = Scheduler::STACK;
        scheduler.contexts[i].uc_link = &scheduler.home;
        makecontext(&scheduler.contexts[i], one_thread, 0);
    }
    for (bool unfinished = true; unfinished;) {
        unfinished = false;
        for (scheduler.current = 0; scheduler.current < count; scheduler.current++) {
            if (scheduler.done[scheduler.current]) continue;
            thread = {(unsigned)scheduler.current, 0, 0};
            swapcontext(&scheduler.home, &scheduler.contexts[scheduler.current]);
            unfinished |= !scheduler.done[scheduler.current];
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
#define ATOMIC(name, value) template <class T, class U> inline T name(T* p, U b) { T old = *p; *p = value; return old; }
ATOMIC(atomicAdd, old + b) ATOMIC(atomicMax, std::max(old, (T)b)) ATOMIC(atomicMin, std::min(old, (T)b))
ATOMIC(atomicAnd, old & b) ATOMIC(atomicOr, old | b) ATOMIC(atomicXor, old ^ b) ATOMIC(atomicExch, b)
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
