// Rotation of queries or keys in one pass over memory.
//
// Both functions take rows begin to end of x [series x tokens, heads, 2 * half], with any strides but 1 in the last
// dimension, and tables [series or 1, tokens, half]. sizes: tokens, heads, half; the strides of x between series,
// tokens and heads; those of out; the stride of the tables between series.

#include <cstdint>

namespace {

// A table or tensor without aliases, as the compiler needs to be told.
using In = const float* __restrict;
using Out = float* __restrict;

// Rotate channels i and i + half as a pair; write them beside each other.
struct ToPairs {
  static void rotate(In x, In cos, In sin, int64_t half, Out out) {
    for (int64_t i = 0; i < half; ++i) {
      const float real = x[i] * cos[i] - x[half + i] * sin[i], imag = x[half + i] * cos[i] + x[i] * sin[i];
      out[2 * i] = real;
      out[2 * i + 1] = imag;
    }
  }
};

// The inverse: rotate pairs that are beside each other back, into channels i and i + half.
struct FromPairs {
  static void rotate(In x, In cos, In sin, int64_t half, Out out) {
    for (int64_t i = 0; i < half; ++i) {
      const float real = x[2 * i], imag = x[2 * i + 1];
      out[i] = real * cos[i] + imag * sin[i];
      out[half + i] = imag * cos[i] - real * sin[i];
    }
  }
};

// HALF is the number of pairs of a head if it is known when this is compiled, else 0.
template <typename Kind, int64_t HALF>
void rotate_rows(In x, In cos, In sin, int64_t begin, int64_t end, const int64_t* sizes, Out out) {
  const int64_t tokens = sizes[0], heads = sizes[1], half = HALF ? HALF : sizes[2];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t series = row / tokens, token = row % tokens, angle = series * sizes[9] + token * half;
    const int64_t from = series * sizes[3] + token * sizes[4], to = series * sizes[6] + token * sizes[7];
    for (int64_t h = 0; h < heads; ++h) {
      Kind::rotate(x + from + h * sizes[5], cos + angle, sin + angle, half, out + to + h * sizes[8]);
    }
  }
}

// Heads of usual widths have loops of a fixed length: with 8 pairs that takes less than half the time.
template <typename Kind>
void rotate_any(In x, In cos, In sin, int64_t begin, int64_t end, const int64_t* sizes, Out out) {
  switch (sizes[2]) {
    case 8: return rotate_rows<Kind, 8>(x, cos, sin, begin, end, sizes, out);
    case 16: return rotate_rows<Kind, 16>(x, cos, sin, begin, end, sizes, out);
    case 32: return rotate_rows<Kind, 32>(x, cos, sin, begin, end, sizes, out);
    default: return rotate_rows<Kind, 0>(x, cos, sin, begin, end, sizes, out);
  }
}

}  // namespace

extern "C" {

void rotate(In x, In cos, In sin, int64_t begin, int64_t end, const int64_t* sizes, Out out) {
  rotate_any<ToPairs>(x, cos, sin, begin, end, sizes, out);
}

void rotate_back(In x, In cos, In sin, int64_t begin, int64_t end, const int64_t* sizes, Out out) {
  rotate_any<FromPairs>(x, cos, sin, begin, end, sizes, out);
}

}  // extern "C"
