// Rotation of queries or keys in one pass over memory. Each product and each sum is rounded by itself (no fused
// multiply-add), so the numbers do not depend on the instruction set.

#include <cstdint>

namespace {

// The tables [tokens, half] of one series, and the strides of x [tokens, heads, 2 * half].
struct Row {
  const float *cos, *sin, *x;
  int64_t offset;  // of the row in a contiguous [rows, heads, 2 * half]
};

Row find_row(const float* x, const float* cos, const float* sin, int64_t row, const int64_t* sizes) {
  const int64_t tokens = sizes[0], heads = sizes[1], half = sizes[2];
  const int64_t series = row / tokens, token = row % tokens, angle = series * sizes[6] + token * half;
  return {cos + angle, sin + angle, x + series * sizes[3] + token * sizes[4], row * heads * 2 * half};
}

}  // namespace

extern "C" {

// Rotate channels i and i + half as a pair; write them beside each other.
//
// x: any strides but 1 in its last dimension; out: contiguous [series, tokens, heads, 2 * half]
// rows begin to end of series x tokens
// sizes: tokens, heads, half; strides of x between series, tokens, heads; stride of the tables between series
void rotate(const float* x, const float* cos, const float* sin, int64_t begin, int64_t end, const int64_t* sizes,
            float* out) {
  const int64_t heads = sizes[1], half = sizes[2];
  for (int64_t row = begin; row < end; ++row) {
    const Row r = find_row(x, cos, sin, row, sizes);
    for (int64_t h = 0; h < heads; ++h) {
      const float *__restrict a = r.x + h * sizes[5], *__restrict b = a + half;
      float* __restrict pair = out + r.offset + h * 2 * half;
      for (int64_t i = 0; i < half; ++i) {
        const float real = a[i] * r.cos[i] - b[i] * r.sin[i], imag = b[i] * r.cos[i] + a[i] * r.sin[i];
        pair[2 * i] = real;
        pair[2 * i + 1] = imag;
      }
    }
  }
}

// The inverse: rotate pairs that are beside each other back, into channels i and i + half.
void rotate_back(const float* x, const float* cos, const float* sin, int64_t begin, int64_t end, const int64_t* sizes,
                 float* out) {
  const int64_t heads = sizes[1], half = sizes[2];
  for (int64_t row = begin; row < end; ++row) {
    const Row r = find_row(x, cos, sin, row, sizes);
    for (int64_t h = 0; h < heads; ++h) {
      const float* __restrict pair = r.x + h * sizes[5];
      float *__restrict a = out + r.offset + h * 2 * half, *__restrict b = a + half;
      for (int64_t i = 0; i < half; ++i) {
        const float real = pair[2 * i], imag = pair[2 * i + 1];
        a[i] = real * r.cos[i] + imag * r.sin[i];
        b[i] = imag * r.cos[i] - real * r.sin[i];
      }
    }
  }
}

}  // extern "C"
