// CUDA's runtime without a GPU: one device whose memory is the host's.
#include <cuda_runtime_api.h>
#include <cstdlib>
#include <cstring>
extern "C" {
#define OK { return cudaSuccess; }
#define SET(name, type, value) cudaError_t name(type* p) { *p = value; return cudaSuccess; }
SET(cudaGetDeviceCount, int, 1) SET(cudaGetDevice, int, 0)
SET(cudaRuntimeGetVersion, int, CUDART_VERSION) SET(cudaDriverGetVersion, int, CUDART_VERSION)
SET(cudaStreamCreate, cudaStream_t, (cudaStream_t)8) SET(cudaEventCreate, cudaEvent_t, (cudaEvent_t)8)
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { *e = (cudaEvent_t)8; return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* e, unsigned) { *e = (cudaStream_t)8; return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    memset(p, 0, sizeof *p); strcpy(p->name, "none");
    p->major = 9; p->multiProcessorCount = 1; p->totalGlobalMem = 1ull << 33; p->warpSize = 32;
    p->maxThreadsPerBlock = 1024; p->sharedMemPerBlock = 49152; p->regsPerBlock = 65536;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
    *v = a == cudaDevAttrComputeCapabilityMajor ? 9 : a == cudaDevAttrComputeCapabilityMinor ||
         a == cudaDevAttrComputeMode ? 0 : 1024;
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* p, const void*) {
    memset(p, 0, sizeof *p); p->ptxVersion = p->binaryVersion = 90; p->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) { *n = 1; OK }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) { *n = 1; OK }
#define ALLOCATE { *p = calloc(1, n + 256); return cudaSuccess; }
cudaError_t cudaMalloc(void** p, size_t n) ALLOCATE
cudaError_t cudaMallocManaged(void** p, size_t n, unsigned) ALLOCATE
cudaError_t cudaMallocHost(void** p, size_t n) ALLOCATE
cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) ALLOCATE
cudaError_t cudaFree(void* p) { free(p); OK }
cudaError_t cudaFreeHost(void* p) { free(p); OK }
cudaError_t cudaMemcpy(void* a, const void* b, size_t n, cudaMemcpyKind) { memmove(a, b, n); OK }
cudaError_t cudaMemcpyAsync(void* a, const void* b, size_t n, cudaMemcpyKind, cudaStream_t) { memmove(a, b, n); OK }
cudaError_t cudaMemset(void* a, int v, size_t n) { memset(a, v, n); OK }
cudaError_t cudaMemsetAsync(void* a, int v, size_t n, cudaStream_t) { memset(a, v, n); OK }
cudaError_t cudaMemGetInfo(size_t* a, size_t* b) { *a = *b = 1ull << 33; OK }
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t f, void* data) { f(data); OK }
const char* cudaGetErrorString(cudaError_t) { return "none"; }
const char* cudaGetErrorName(cudaError_t) { return "none"; }
void** __cudaRegisterFatBinary(void*) { static void* handle; return &handle; }
}
