// The little of CUB and libcu++ that Jittor's softmax uses.
#pragma once
namespace cub {
template <class T, int N> struct BlockReduce {
    struct TempStorage { T values[N]; };
    TempStorage& storage;
    BlockReduce(TempStorage& storage) : storage(storage) {}
    // only the first thread's result counts
    template <class Op> T Reduce(T value, Op op) {
        storage.values[threadIdx.x] = value;
        __syncthreads();
        T result = storage.values[0];
        if (threadIdx.x == 0) for (int i = 1; i < N; i++) result = op(result, storage.values[i]);
        return result;
    }
    T Sum(T value) { return Reduce(value, [](T a, T b) { return a + b; }); }
};
}
namespace cuda {
template <class T = void> struct maximum {
    template <class V> V operator()(V a, V b) const { return a < b ? b : a; }
};
}
