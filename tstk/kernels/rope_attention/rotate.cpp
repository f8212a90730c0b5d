// Rotation of queries or keys in one pass over memory.
//
// Both functions take rows begin to end of x [series x tokens, heads, 2 * half], with any strides but 1 in the last
// dimension, and tables [series or 1, tokens, half]. sizes: tokens, heads, half; the strides of x between series,
// tokens and heads; those of out; the stride of the tables between series.

#include <cstdint>

namespace {

// Rotate channels i and i + half as a pair and write them beside each other; BACK: the inverse.
//
// HALF is the number of pairs of a head if it is known when this is compiled, else 0. The compiler makes use of
// `__restrict` only for variables of the function in which the loop is.
template <bool BACK, int64_t HALF>
void rotate_rows(const float* x, const float* cos, const float* sin, int64_t begin, int64_t end, const int64_t* sizes,
                 float* out) {
  const int64_t tokens = sizes[0], heads = sizes[1], half = HALF ? HALF : sizes[2];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t series = row / tokens, token = row % tokens, angle = series * sizes[9] + token * half;
    const float *__restrict c = cos + angle, *__restrict s = sin + angle;
    for (int64_t h = 0; h < heads; ++h) {
      const float *__restrict a = x + series * sizes[3] + token * sizes[4] + h * sizes[5], *__restrict b = a + half;
      float *__restrict to = out + series * sizes[6] + token * sizes[7] + h * sizes[8];
      for (int64_t i = 0; i < half; ++i) {
        if (BACK) {
          const float real = a[2 * i], imag = a[2 * i + 1];
          to[i] = real * c[i] + imag * s[i];
          to[half + i] = imag * c[i] - real * s[i];
        } else {
          const float real = a[i] * c[i] - b[i] * s[i], imag = b[i] * c[i] + a[i] * s[i];
          to[2 * i] = real;
          to[2 * i + 1] = imag;
        }
      }
    }
  }
}

// Heads of usual widths have loops of a fixed length: with 8 pairs that takes less than half the time.
template <bool BACK>
void rotate_any(const float* x, const float* cos, const float* sin, int64_t begin, int64_t end, const int64_t* sizes,
                float* out) {
  switch (sizes[2]) {
    case 8: return rotate_rows<BACK, 8>(x, cos, sin, begin, end, sizes, out);
    case 16: return rotate_rows<BACK, 16>(x, cos, sin, begin, end, sizes, out);
    case 32: return rotate_rows<BACK, 32>(x, cos, sin, begin, end, sizes, out);
    default: return rotate_rows<BACK, 0>(x, cos, sin, begin, end, sizes, out);
  }
}

}  // namespace

extern "C" {

void rotate(const float* x, const float* cos, const float* sin, int64_t begin, int64_t end, const int64_t* sizes,
            float* out) {
  rotate_any<false>(x, cos, sin, begin, end, sizes, out);
}

void rotate_back(const float* x, const float* cos, const float* sin, int64_t begin, int64_t end, const int64_t* sizes,
                 float* out) {
  rotate_any<true>(x, cos, sin, begin, end, sizes, out);
}

}  // extern "C"
