// Vectors of floats in registers, and products of small matrices, for kernels with AVX-512 or AVX2.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

inline Floats fill(float x) { return x - Floats{}; }
inline Floats load(const float* p) {
  Floats x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#ifdef __AVX512F__
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#endif
}

// A tile of c = a b, or c += a b: R rows, V vectors of columns. Element (i, k) of a is at a[i * row + k * step].
template <int R, int V, bool ADD>
inline void multiply_tile(const float* a, int64_t row, int64_t step, const float* b, int64_t b_row, int64_t inner,
                          float* c, int64_t c_row) {
  Floats sums[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sums[r][v] = ADD ? load(c + r * c_row + v * LANES) : Floats{};
  for (int64_t k = 0; k < inner; k++) {
    Floats columns[V];
    for (int v = 0; v < V; v++) columns[v] = load(b + k * b_row + v * LANES);
    for (int r = 0; r < R; r++) {
      const Floats value = fill(a[r * row + k * step]);
      for (int v = 0; v < V; v++) sums[r][v] = multiply_add(value, columns[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(c + r * c_row + v * LANES, sums[r][v]);
}

template <int V, bool ADD>
void multiply_columns(const float* a, int64_t row, int64_t step, const float* b, int64_t b_row, int64_t rows,
                      int64_t inner, float* c, int64_t c_row) {
  constexpr int R = V == 1 ? 8 : 6;
  int64_t i = 0;
  for (; i + R <= rows; i += R) multiply_tile<R, V, ADD>(a + i * row, row, step, b, b_row, inner, c + i * c_row, c_row);
  for (; i + 4 <= rows; i += 4) multiply_tile<4, V, ADD>(a + i * row, row, step, b, b_row, inner, c + i * c_row, c_row);
  a += i * row, c += i * c_row;
  switch (rows - i) {
    case 3: multiply_tile<3, V, ADD>(a, row, step, b, b_row, inner, c, c_row); break;
    case 2: multiply_tile<2, V, ADD>(a, row, step, b, b_row, inner, c, c_row); break;
    case 1: multiply_tile<1, V, ADD>(a, row, step, b, b_row, inner, c, c_row); break;
  }
}

// c [rows, columns] = a b or c += a b, with a [rows, inner] and b [inner, columns]; columns are whole vectors.
template <bool ADD>
void multiply(const float* a, int64_t row, int64_t step, const float* b, int64_t b_row, int64_t rows, int64_t inner,
              int64_t columns, float* c, int64_t c_row) {
  int64_t j = 0;
#ifdef __AVX512F__  // which has registers for 24 sums
  for (; j + 4 * LANES <= columns; j += 4 * LANES)
    multiply_columns<4, ADD>(a, row, step, b + j, b_row, rows, inner, c + j, c_row);
#endif
  for (; j + 2 * LANES <= columns; j += 2 * LANES)
    multiply_columns<2, ADD>(a, row, step, b + j, b_row, rows, inner, c + j, c_row);
  if (j < columns) multiply_columns<1, ADD>(a, row, step, b + j, b_row, rows, inner, c + j, c_row);
}

}  // namespace
