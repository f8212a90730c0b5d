// Rotation of queries or keys in one pass over memory. Each product and each sum is rounded by itself (no fused
// multiply-add), so the numbers do not depend on the instruction set.
//
// Both functions take rows begin to end of x [series x tokens, heads, 2 * half], with any strides but 1 in the last
// dimension, and tables [series or 1, tokens, half]. sizes: tokens, heads, half; the strides of x between series,
// tokens and heads; those of out; the stride of the tables between series.

#include <cstdint>

namespace {

int64_t offset(const int64_t* strides, int64_t series, int64_t token) {
  return series * strides[0] + token * strides[1];
}

}  // namespace

extern "C" {

// Rotate channels i and i + half as a pair; write them beside each other.
void rotate(const float* x, const float* cos, const float* sin, int64_t begin, int64_t end, const int64_t* sizes,
            float* out) {
  const int64_t tokens = sizes[0], heads = sizes[1], half = sizes[2];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t series = row / tokens, token = row % tokens, angle = series * sizes[9] + token * half;
    const float *__restrict c = cos + angle, *__restrict s = sin + angle;
    const float* a = x + offset(sizes + 3, series, token);
    float* pair = out + offset(sizes + 6, series, token);
    for (int64_t h = 0; h < heads; ++h, a += sizes[5], pair += sizes[8]) {
      const float *__restrict first = a, *__restrict second = a + half;
      float* __restrict to = pair;
      for (int64_t i = 0; i < half; ++i) {
        const float real = first[i] * c[i] - second[i] * s[i], imag = second[i] * c[i] + first[i] * s[i];
        to[2 * i] = real;
        to[2 * i + 1] = imag;
      }
    }
  }
}

// The inverse: rotate pairs that are beside each other back, into channels i and i + half.
void rotate_back(const float* x, const float* cos, const float* sin, int64_t begin, int64_t end, const int64_t* sizes,
                 float* out) {
  const int64_t tokens = sizes[0], heads = sizes[1], half = sizes[2];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t series = row / tokens, token = row % tokens, angle = series * sizes[9] + token * half;
    const float *__restrict c = cos + angle, *__restrict s = sin + angle;
    const float* pair = x + offset(sizes + 3, series, token);
    float* a = out + offset(sizes + 6, series, token);
    for (int64_t h = 0; h < heads; ++h, pair += sizes[5], a += sizes[8]) {
      const float* __restrict from = pair;
      float *__restrict first = a, *__restrict second = a + half;
      for (int64_t i = 0; i < half; ++i) {
        const float real = from[2 * i], imag = from[2 * i + 1];
        first[i] = real * c[i] + imag * s[i];
        second[i] = imag * c[i] - real * s[i];
      }
    }
  }
}

}  // extern "C"
