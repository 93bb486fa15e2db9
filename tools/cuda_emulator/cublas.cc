// Matrix products by plain loops, sums in double.
#include <cublas_v2.h>
#include "numbers.h"
static Kind kind(cudaDataType_t t) {
    return t == CUDA_R_64F ? DOUBLE : t == CUDA_R_16F ? HALF : t == CUDA_R_16BF ? BFLOAT16 : FLOAT;
}
// An array of matrices, column by column, and how it is read.
struct Matrices {
    bool transposed; const void* p; cudaDataType_t type; int column; offset next;
    // matrix b as rows x columns doubles, row by row
    std::vector<double> read(int b, int rows, int columns) const {
        std::vector<double> out((size_t)rows*columns);
        for (int i = 0; i < rows; i++) for (int j = 0; j < columns; j++)
            out[(size_t)i*columns + j] = get(kind(type), p, b*next + (transposed ? j + (offset)i*column : i + (offset)j*column));
        return out;
    }
};
static cublasStatus_t product(int m, int n, int k, float alpha, Matrices A, Matrices B, float beta, void* C,
                              cudaDataType_t type, int ldc, offset next, int count, cublasComputeType_t sums) {
    // the real one refuses doubles with sums in float, and the other way
    if ((A.type == CUDA_R_64F) != (sums == CUBLAS_COMPUTE_64F)) return CUBLAS_STATUS_NOT_SUPPORTED;
    #pragma omp parallel for
    for (int b = 0; b < count; b++) {
        auto left = A.read(b, m, k), right = B.read(b, k, n);
        std::vector<double> row(n);
        for (int i = 0; i < m; i++) {
            std::fill(row.begin(), row.end(), 0);
            for (int l = 0; l < k; l++) {
                double v = left[(size_t)i*k + l];
                const double* from = &right[(size_t)l*n];
                for (int j = 0; j < n; j++) row[j] += v*from[j];
            }
            for (int j = 0; j < n; j++) {
                offset at = b*next + i + (offset)j*ldc;
                put(kind(type), C, at, alpha*row[j] + (beta ? beta*get(kind(type), C, at) : 0));
            }
        }
    }
    return CUBLAS_STATUS_SUCCESS;
}
extern "C" {
cublasStatus_t cublasGemmEx(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
    const void* alpha, const void* A, cudaDataType_t at, int lda, const void* B, cudaDataType_t bt, int ldb,
    const void* beta, void* C, cudaDataType_t ct, int ldc, cublasComputeType_t sums, cublasGemmAlgo_t) {
    return product(m, n, k, *(float*)alpha, {ta != CUBLAS_OP_N, A, at, lda, 0}, {tb != CUBLAS_OP_N, B, bt, ldb, 0},
                   *(float*)beta, C, ct, ldc, 0, 1, sums);
}
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m,
    int n, int k, const void* alpha, const void* A, cudaDataType_t at, int lda, long long sa, const void* B,
    cudaDataType_t bt, int ldb, long long sb, const void* beta, void* C, cudaDataType_t ct, int ldc,
    long long sc, int count, cublasComputeType_t sums, cublasGemmAlgo_t) {
    return product(m, n, k, *(float*)alpha, {ta != CUBLAS_OP_N, A, at, lda, sa}, {tb != CUBLAS_OP_N, B, bt, ldb, sb},
                   *(float*)beta, C, ct, ldc, sc, count, sums);
}
}
