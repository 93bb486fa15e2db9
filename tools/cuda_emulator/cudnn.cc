// Convolutions by plain loops, sums in double.
#include <cudnn.h>
#include <cstring>
#include "numbers.h"
struct Shape { int pad[2], step[2], dilation[2], groups = 1; };
struct Tensor {
    Kind kind; int size[4], stride[4];
    offset count() const { return (offset)size[0]*size[1]*size[2]*size[3]; }
    offset plane(int n, int c) const { return ((offset)n*size[1] + c)*size[2]*size[3]; }  // in the order of `all`
    // calls f(index in order, offset in memory) for every number
    template <class F> void all(F f) const {
        offset i = 0;
        for (int a = 0; a < size[0]; a++) for (int b = 0; b < size[1]; b++) for (int c = 0; c < size[2]; c++)
            for (int d = 0; d < size[3]; d++)
                f(i++, (offset)a*stride[0] + (offset)b*stride[1] + (offset)c*stride[2] + (offset)d*stride[3]);
    }
    std::vector<double> read(const void* p) const {
        std::vector<double> out(count());
        all([&](offset i, offset at) { out[i] = get(kind, p, at); });
        return out;
    }
    void write(void* p, const std::vector<double>& v, float alpha, float beta) const {
        all([&](offset i, offset at) { put(kind, p, at, alpha*v[i] + (beta ? beta*get(kind, p, at) : 0)); });
    }
};
// For the weight at (a, b) of the kernel: calls f(row of x, row of y, first and last column of y, first column of x).
template <class F> static void rows(const Tensor& x, const Tensor& y, const Shape& s, int a, int b, F f) {
    int right = b*s.dilation[1] - s.pad[1], from = 0, to = y.size[3];
    while (from < to && from*s.step[1] + right < 0) from++;
    while (to > from && (to - 1)*s.step[1] + right >= x.size[3]) to--;
    for (int i = 0; i < y.size[2]; i++) {
        int u = i*s.step[0] - s.pad[0] + a*s.dilation[0];
        if (u >= 0 && u < x.size[2]) f((offset)u*x.size[3], (offset)i*y.size[3], from, to, right);
    }
}
// For all products of item n and output channel o, a row at a time: calls f(offset in w, in x, in y, first and last
// column of y), where column j of y goes with x[offset + j*step].
template <class F> static void products(const Tensor& x, const Tensor& w, const Tensor& y, const Shape& s, int n,
                                        int o, F f) {
    int each = w.size[1], first = o/(y.size[1]/s.groups)*each;
    for (int c = 0; c < each; c++) for (int a = 0; a < w.size[2]; a++) for (int b = 0; b < w.size[3]; b++) {
        offset weight = w.plane(o, c) + (offset)a*w.size[3] + b;
        rows(x, y, s, a, b, [&](offset xi, offset yi, int from, int to, int right) {
            f(weight, x.plane(n, first + c) + xi + right, y.plane(n, o) + yi, from, to);
        });
    }
}
static Tensor& T(const void* p) { return *(Tensor*)p; }
static Shape& S(const void* p) { return *(Shape*)p; }
template <class Perf, class Algo> static cudnnStatus_t one(int* count, Perf* perf, Algo algo) {
    memset(perf, 0, sizeof *perf);
    perf->algo = algo; *count = 1;
    return CUDNN_STATUS_SUCCESS;
}
static Kind kind(cudnnDataType_t t) {
    return t == CUDNN_DATA_DOUBLE ? DOUBLE : t == CUDNN_DATA_HALF ? HALF : t == CUDNN_DATA_BFLOAT16 ? BFLOAT16 : FLOAT;
}
extern "C" {
#define DONE return CUDNN_STATUS_SUCCESS
cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* d) { *d = (cudnnTensorDescriptor_t) new Tensor; DONE; }
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* d) { *d = (cudnnFilterDescriptor_t) new Tensor; DONE; }
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* d) { *d = (cudnnConvolutionDescriptor_t) new Shape; DONE; }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d) { delete (Tensor*)d; DONE; }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t d) { delete (Tensor*)d; DONE; }
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t d) { delete (Shape*)d; DONE; }
cudnnStatus_t cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t d, cudnnDataType_t type, int n, const int* size, const int* stride) {
    if (n != 4) return CUDNN_STATUS_NOT_SUPPORTED;
    Tensor& t = T(d); t.kind = kind(type);
    for (int i = 0; i < 4; i++) t.size[i] = size[i], t.stride[i] = stride[i];
    DONE;
}
cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type, cudnnTensorFormat_t format, int n, const int* size) {
    if (n != 4 || format != CUDNN_TENSOR_NCHW) return CUDNN_STATUS_NOT_SUPPORTED;
    Tensor& t = T(d); t.kind = kind(type);
    for (int i = 3, s = 1; i >= 0; i--) t.size[i] = size[i], t.stride[i] = s, s *= size[i];
    DONE;
}
cudnnStatus_t cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t d, int n, const int* pad, const int* step, const int* dilation, cudnnConvolutionMode_t mode, cudnnDataType_t) {
    if (n != 2 || mode != CUDNN_CROSS_CORRELATION) return CUDNN_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < 2; i++) S(d).pad[i] = pad[i], S(d).step[i] = step[i], S(d).dilation[i] = dilation[i];
    DONE;
}
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t d, int n) { S(d).groups = n; DONE; }
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t, cudnnMathType_t) { DONE; }
cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, cudnnTensorDescriptor_t, cudnnFilterDescriptor_t, cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionFwdAlgo_t, size_t* n) { *n = 0; DONE; }
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, cudnnFilterDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionBwdDataAlgo_t, size_t* n) { *n = 0; DONE; }
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t, cudnnTensorDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionDescriptor_t, cudnnFilterDescriptor_t, cudnnConvolutionBwdFilterAlgo_t, size_t* n) { *n = 0; DONE; }
cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, cudnnTensorDescriptor_t, cudnnFilterDescriptor_t, cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t, int, int* n, cudnnConvolutionFwdAlgoPerf_t* p) { return one(n, p, CUDNN_CONVOLUTION_FWD_ALGO_GEMM); }
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t, cudnnFilterDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t, int, int* n, cudnnConvolutionBwdDataAlgoPerf_t* p) { return one(n, p, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1); }
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t, cudnnTensorDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionDescriptor_t, cudnnFilterDescriptor_t, int, int* n, cudnnConvolutionBwdFilterAlgoPerf_t* p) { return one(n, p, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1); }
cudnnStatus_t cudnnFindConvolutionForwardAlgorithmEx(cudnnHandle_t, cudnnTensorDescriptor_t, const void*, cudnnFilterDescriptor_t, const void*, cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t, void*, int, int* n, cudnnConvolutionFwdAlgoPerf_t* p, void*, size_t) { return one(n, p, CUDNN_CONVOLUTION_FWD_ALGO_GEMM); }
cudnnStatus_t cudnnFindConvolutionBackwardDataAlgorithmEx(cudnnHandle_t, cudnnFilterDescriptor_t, const void*, cudnnTensorDescriptor_t, const void*, cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t, void*, int, int* n, cudnnConvolutionBwdDataAlgoPerf_t* p, void*, size_t) { return one(n, p, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1); }
cudnnStatus_t cudnnFindConvolutionBackwardFilterAlgorithmEx(cudnnHandle_t, cudnnTensorDescriptor_t, const void*, cudnnTensorDescriptor_t, const void*, cudnnConvolutionDescriptor_t, cudnnFilterDescriptor_t, void*, int, int* n, cudnnConvolutionBwdFilterAlgoPerf_t* p, void*, size_t) { return one(n, p, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1); }
cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t, const void* alpha, cudnnTensorDescriptor_t xd, const void* x, cudnnFilterDescriptor_t wd, const void* w, cudnnConvolutionDescriptor_t sd, cudnnConvolutionFwdAlgo_t, void*, size_t, const void* beta, cudnnTensorDescriptor_t yd, void* y) {
    Tensor &X = T(xd), &W = T(wd), &Y = T(yd);
    Shape& s = S(sd);
    auto in = X.read(x), k = W.read(w);
    std::vector<double> out(Y.count());
    #pragma omp parallel for collapse(2)
    for (int n = 0; n < Y.size[0]; n++) for (int o = 0; o < Y.size[1]; o++)
        products(X, W, Y, s, n, o, [&](offset weight, offset p, offset q, int from, int to) {
            for (int j = from; j < to; j++) out[q + j] += k[weight]*in[p + j*s.step[1]];
        });
    Y.write(y, out, *(float*)alpha, *(float*)beta);
    DONE;
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t, const void* alpha, cudnnFilterDescriptor_t wd, const void* w, cudnnTensorDescriptor_t yd, const void* y, cudnnConvolutionDescriptor_t sd, cudnnConvolutionBwdDataAlgo_t, void*, size_t, const void* beta, cudnnTensorDescriptor_t xd, void* x) {
    Tensor &X = T(xd), &W = T(wd), &Y = T(yd);
    Shape& s = S(sd);
    auto g = Y.read(y), k = W.read(w);
    std::vector<double> out(X.count());
    #pragma omp parallel for
    for (int n = 0; n < Y.size[0]; n++) for (int o = 0; o < Y.size[1]; o++)
        products(X, W, Y, s, n, o, [&](offset weight, offset p, offset q, int from, int to) {
            for (int j = from; j < to; j++) out[p + j*s.step[1]] += k[weight]*g[q + j];
        });
    X.write(x, out, *(float*)alpha, *(float*)beta);
    DONE;
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t, const void* alpha, cudnnTensorDescriptor_t xd, const void* x, cudnnTensorDescriptor_t yd, const void* y, cudnnConvolutionDescriptor_t sd, cudnnConvolutionBwdFilterAlgo_t, void*, size_t, const void* beta, cudnnFilterDescriptor_t wd, void* w) {
    Tensor &X = T(xd), &W = T(wd), &Y = T(yd);
    Shape& s = S(sd);
    auto in = X.read(x), g = Y.read(y);
    std::vector<double> out(W.count());
    #pragma omp parallel for
    for (int o = 0; o < Y.size[1]; o++) for (int n = 0; n < Y.size[0]; n++)
        products(X, W, Y, s, n, o, [&](offset weight, offset p, offset q, int from, int to) {
            for (int j = from; j < to; j++) out[weight] += g[q + j]*in[p + j*s.step[1]];
        });
    W.write(w, out, *(float*)alpha, *(float*)beta);
    DONE;
}
}
