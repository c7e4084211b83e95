/* Stands in for `cblas_sgemm` and `cblas_dgemm` and hands each call to another BLAS.
 *
 * MLX calls with 32-bit sizes and these two names; the OpenBLAS inside NumPy has other names and
 * takes 64-bit sizes. The caller finds the functions, checks them, and sets them before first use.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define GEMM(NAME, REAL)                                                                          \
  typedef void NAME##_32(int, int, int, int32_t, int32_t, int32_t, REAL, const REAL *, int32_t,   \
                         const REAL *, int32_t, REAL, REAL *, int32_t);                           \
  typedef void NAME##_64(int, int, int, int64_t, int64_t, int64_t, REAL, const REAL *, int64_t,   \
                         const REAL *, int64_t, REAL, REAL *, int64_t);                           \
  static void *NAME##_target;                                                                     \
  void cblas_##NAME(int order, int trans_a, int trans_b, int32_t m, int32_t n, int32_t k,         \
                    REAL alpha, const REAL *a, int32_t lda, const REAL *b, int32_t ldb,           \
                    REAL beta, REAL *c, int32_t ldc) {                                            \
    check(NAME##_target);                                                                         \
    __atomic_add_fetch(&tidewheel_blas_calls, 1, __ATOMIC_RELAXED);                               \
    if (wide)                                                                                     \
      ((NAME##_64 *)NAME##_target)(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, \
                                   c, ldc);                                                       \
    else                                                                                          \
      ((NAME##_32 *)NAME##_target)(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, \
                                   c, ldc);                                                       \
  }

int64_t tidewheel_blas_calls = 0;
static int wide = 0;

static void check(const void *target) {
  if (target) return;
  fputs("tidewheel: a matrix product was asked for before its BLAS was set\n", stderr);
  abort();
}

GEMM(sgemm, float)
GEMM(dgemm, double)

/* Set where the calls go; `sizes_are_64_bits` says how that BLAS takes its sizes. */
int tidewheel_blas_route(void *sgemm, void *dgemm, int sizes_are_64_bits) {
  if (!sgemm || !dgemm) return -1;
  wide = sizes_are_64_bits;
  sgemm_target = sgemm;
  dgemm_target = dgemm;
  return 0;
}
