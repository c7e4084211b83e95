/* Stands in for `cblas_sgemm` and `cblas_dgemm` and hands each call to another BLAS.
 *
 * MLX calls these two names, with sizes of 32 bits; the OpenBLAS inside NumPy has other names and
 * takes sizes of 64 bits. Whoever loads this sets the two functions before the first call.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int sizes_are_wide;

static void require(const void *target) {
  if (target) return;
  fputs("tidewheel: a matrix product was asked for before its BLAS was set\n", stderr);
  abort();
}

#define GEMM(NAME, REAL)                                                                        \
  typedef void NAME##_narrow(int, int, int, int32_t, int32_t, int32_t, REAL, const REAL *,      \
                             int32_t, const REAL *, int32_t, REAL, REAL *, int32_t);            \
  typedef void NAME##_wide(int, int, int, int64_t, int64_t, int64_t, REAL, const REAL *,        \
                           int64_t, const REAL *, int64_t, REAL, REAL *, int64_t);              \
  static void *NAME##_target;                                                                   \
  void cblas_##NAME(int order, int trans_a, int trans_b, int32_t m, int32_t n, int32_t k,       \
                    REAL alpha, const REAL *a, int32_t lda, const REAL *b, int32_t ldb,         \
                    REAL beta, REAL *c, int32_t ldc) {                                          \
    require(NAME##_target);                                                                     \
    if (sizes_are_wide)                                                                         \
      ((NAME##_wide *)NAME##_target)(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb,   \
                                     beta, c, ldc);                                             \
    else                                                                                        \
      ((NAME##_narrow *)NAME##_target)(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, \
                                       beta, c, ldc);                                           \
  }

GEMM(sgemm, float)
GEMM(dgemm, double)

/* Set where the calls go; returns 0, or -1 when a function is missing. */
int tidewheel_route(void *sgemm, void *dgemm, int wide) {
  if (!sgemm || !dgemm) return -1;
  sizes_are_wide = wide;
  sgemm_target = sgemm;
  dgemm_target = dgemm;
  return 0;
}
