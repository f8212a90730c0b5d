// One-dimensional convolutions by minimal filtering, forward and backward (Winograd 1980; Lavin and Gray 2016).
//
// A tile of F(4, 3), four outputs of a convolution with three taps, takes 6 products of matrices instead of 12; one of
// F(3, 2) takes 4 instead of 6. Inputs and outputs of a tile are mapped by the small matrices in `Tile`, the weights
// by one in Python. The points of F(4, 3) are 0, +-2^-1/2, +-2^1/2 and infinity, with which the error is smaller than
// with the usual ones, 0, +-1, +-2 and infinity.
//
// Series are read and written as rows of `group` samples side by side, so a convolution of kernel size 4 and stride 2
// is one of two taps between rows of two samples and rows of one, and a transposed one the other way round.

#include <cmath>

#include "simd.h"

namespace {

constexpr float LOW = 0.70710678f, HIGH = 1.41421356f;  // points of F(4, 3)

// Maps of a tile: B^T of its inputs, A^T to its outputs, A of gradients of its outputs.
template <int TAPS>
struct Tile;

template <>
struct Tile<3> {
  static constexpr int OUTPUTS = 4, POINTS = 6;
  static void map_inputs(const Floats* x, Floats* v) {
    const Floats even_low = x[4] - 2 * x[2], odd_low = LOW * (x[3] - 2 * x[1]);
    const Floats even_high = x[4] - 0.5f * x[2], odd_high = HIGH * (x[3] - 0.5f * x[1]);
    v[0] = x[0] - 2.5f * x[2] + x[4];
    v[1] = even_low + odd_low, v[2] = even_low - odd_low;
    v[3] = even_high + odd_high, v[4] = even_high - odd_high;
    v[5] = x[1] - 2.5f * x[3] + x[5];
  }
  static void map_products(const Floats* m, Floats* y) {
    const Floats low = m[1] + m[2], low_odd = LOW * (m[1] - m[2]);
    const Floats high = m[3] + m[4], high_odd = HIGH * (m[3] - m[4]);
    y[0] = m[0] + low + high;
    y[1] = low_odd + high_odd;
    y[2] = 0.5f * low + 2 * high;
    y[3] = 0.5f * low_odd + 2 * high_odd + m[5];
  }
  static void map_gradients(const Floats* g, Floats* d) {
    const Floats even_low = g[0] + 0.5f * g[2], odd_low = LOW * (g[1] + 0.5f * g[3]);
    const Floats even_high = g[0] + 2 * g[2], odd_high = HIGH * (g[1] + 2 * g[3]);
    d[0] = g[0];
    d[1] = even_low + odd_low, d[2] = even_low - odd_low;
    d[3] = even_high + odd_high, d[4] = even_high - odd_high;
    d[5] = g[3];
  }
};

template <>
struct Tile<2> {
  static constexpr int OUTPUTS = 3, POINTS = 4;
  static void map_inputs(const Floats* x, Floats* v) {
    v[0] = x[0] - x[2], v[1] = x[1] + x[2], v[2] = x[2] - x[1], v[3] = x[3] - x[1];
  }
  static void map_products(const Floats* m, Floats* y) {
    y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2], y[2] = m[1] + m[2] + m[3];
  }
  static void map_gradients(const Floats* g, Floats* d) {
    const Floats even = g[0] + g[2];
    d[0] = g[0], d[1] = even + g[1], d[2] = even - g[1], d[3] = g[2];
  }
};

constexpr int64_t BLOCK = 48;  // tiles whose products stay in the cache

// Floats from the results of one point to those of the next: not a power of two, which would displace each other in the
// cache.
inline int64_t plane(int64_t width) { return BLOCK * width + 2 * LANES; }

// Samples [series, samples, channels] in rows of `group` samples, the first of which begins `pad` samples before the
// first sample.
struct Layout {
  int64_t samples, channels, group, pad;
  int64_t stride() const { return samples * channels; }
  int64_t width() const { return group * channels; }
  int64_t first(int64_t row) const { return row * group - pad; }
  bool has_whole(int64_t row) const { return first(row) >= 0 && first(row) + group <= samples; }
};

// The row of a series; of samples outside it zeros, and of those whose `gate` is 0 (outputs of ReLU), in a buffer.
inline const float* find_row(const float* x, const float* gate, const Layout* s, int64_t row, float* buffer) {
  const int64_t first = s->first(row), channels = s->channels;
  if (!gate && s->has_whole(row)) return x + first * channels;
  for (int64_t i = 0; i < s->group; i++) {
    const int64_t sample = first + i;
    float* to = buffer + i * channels;
    if (sample < 0 || sample >= s->samples) {
      std::memset(to, 0, channels * sizeof(float));
    } else if (gate) {
      for (int64_t j = 0; j < channels; j += LANES) {
        const Ints is_closed = load(gate + sample * channels + j) <= 0.0f;
        store(to + j, is_closed ? Floats{} : load(x + sample * channels + j));
      }
    } else {
      std::memcpy(to, x + sample * channels, channels * sizeof(float));
    }
  }
  return buffer;
}

// Map SIZE rows of each of `count` tiles from `first` on to POINTS planes of [count, width].
template <int SIZE, int POINTS, typename Map>
void map_tiles(Map map, const float* x, const float* gate, const Layout* s, int64_t tiles, int64_t step, int64_t first,
               int64_t count, float* out, float* buffer) {
  const int64_t width = s->width();
  for (int64_t i = 0; i < count; i++) {
    const int64_t series = (first + i) / tiles, tile = (first + i) % tiles;
    const float *data = x + series * s->stride(), *open = gate ? gate + series * s->stride() : nullptr;
    const float* rows[SIZE];
    for (int k = 0; k < SIZE; k++) rows[k] = find_row(data, open, s, tile * step + k, buffer + k * width);
    for (int64_t j = 0; j < width; j += LANES) {
      Floats values[SIZE], mapped[POINTS];
      for (int k = 0; k < SIZE; k++) values[k] = load(rows[k] + j);
      map(values, mapped);
      for (int k = 0; k < POINTS; k++) store(out + k * plane(width) + i * width + j, mapped[k]);
    }
  }
}

// Map POINTS planes of products to rows of y, add the bias and apply ReLU.
template <int TAPS>
void write_tiles(const float* products, const float* bias, bool relu, float* y, const Layout* s, int64_t tiles,
                 int64_t first, int64_t count, float* buffer) {
  constexpr int OUTPUTS = Tile<TAPS>::OUTPUTS, POINTS = Tile<TAPS>::POINTS;
  const int64_t width = s->width(), channels = s->channels;
  for (int64_t i = 0; i < count; i++) {
    const int64_t series = (first + i) / tiles, row = (first + i) % tiles * OUTPUTS;
    float *data = y + series * s->stride(), *to[OUTPUTS];
    for (int k = 0; k < OUTPUTS; k++)
      to[k] = s->has_whole(row + k) ? data + s->first(row + k) * channels : buffer + k * width;
    for (int64_t j = 0; j < width; j += LANES) {
      Floats values[POINTS], mapped[OUTPUTS];
      for (int k = 0; k < POINTS; k++) values[k] = load(products + k * plane(width) + i * width + j);
      Tile<TAPS>::map_products(values, mapped);
      for (int k = 0; k < OUTPUTS; k++) {
        if (bias) mapped[k] += load(bias + j);
        if (relu) mapped[k] = mapped[k] < 0.0f ? Floats{} : mapped[k];  // NaN remains
        store(to[k] + j, mapped[k]);
      }
    }
    for (int k = 0; k < OUTPUTS; k++) {  // of rows that are partly outside, what is inside
      const int64_t start = s->first(row + k);
      if (s->has_whole(row + k)) continue;
      for (int64_t g = 0; g < s->group; g++)
        if (start + g >= 0 && start + g < s->samples)
          std::memcpy(data + (start + g) * channels, to[k] + g * channels, channels * sizeof(float));
    }
  }
}

template <int TAPS>
void convolve(const float* x, const float* gate, const Layout* in, const float* weight, const float* bias, bool relu,
              float* y, const Layout* out, int64_t rows, int64_t begin, int64_t end, float* scratch) {
  constexpr int OUTPUTS = Tile<TAPS>::OUTPUTS, POINTS = Tile<TAPS>::POINTS;
  const int64_t tiles = (rows + OUTPUTS - 1) / OUTPUTS, n = in->width(), m = out->width();
  float *inputs = scratch, *products = inputs + POINTS * plane(n), *buffer = products + POINTS * plane(m);
  for (int64_t first = begin * tiles; first < end * tiles; first += BLOCK) {
    const int64_t count = end * tiles - first < BLOCK ? end * tiles - first : BLOCK;
    map_tiles<POINTS, POINTS>(Tile<TAPS>::map_inputs, x, gate, in, tiles, OUTPUTS, first, count, inputs, buffer);
    for (int k = 0; k < POINTS; k++)
      multiply<false>(inputs + k * plane(n), n, 1, weight + k * n * m, m, count, n, m, products + k * plane(m), m);
    write_tiles<TAPS>(products, bias, relu, y, out, tiles, first, count, buffer);
  }
}

template <int TAPS>
void find_weight_gradient(const float* x, const float* x_gate, const Layout* in, const float* grad,
                          const float* grad_gate, const Layout* out, int64_t rows, int64_t begin, int64_t end,
                          float* weight_grad, float* scratch) {
  constexpr int OUTPUTS = Tile<TAPS>::OUTPUTS, POINTS = Tile<TAPS>::POINTS;
  const int64_t tiles = (rows + OUTPUTS - 1) / OUTPUTS, n = in->width(), m = out->width();
  float *inputs = scratch, *grads = inputs + POINTS * plane(n), *buffer = grads + POINTS * plane(m);
  std::memset(weight_grad, 0, POINTS * n * m * sizeof(float));
  for (int64_t first = begin * tiles; first < end * tiles; first += BLOCK) {
    const int64_t count = end * tiles - first < BLOCK ? end * tiles - first : BLOCK;
    map_tiles<POINTS, POINTS>(Tile<TAPS>::map_inputs, x, x_gate, in, tiles, OUTPUTS, first, count, inputs, buffer);
    map_tiles<OUTPUTS, POINTS>(Tile<TAPS>::map_gradients, grad, grad_gate, out, tiles, OUTPUTS, first, count, grads,
                               buffer);
    for (int k = 0; k < POINTS; k++)
      multiply<true>(inputs + k * plane(n), 1, n, grads + k * plane(m), m, n, count, m, weight_grad + k * n * m, m);
  }
}

}  // namespace

extern "C" {

// Numbers of scratch memory that both functions need.
int64_t scratch_size(int64_t in_width, int64_t out_width) {
  constexpr int64_t POINTS = Tile<3>::POINTS;
  const int64_t widest = in_width > out_width ? in_width : out_width;
  return POINTS * (plane(in_width) + plane(out_width) + widest);
}

// Convolve series begin to end of x with weights [points, in_width, out_width] to `rows` rows of y, and add a bias
// [out_width], unless it is null.
void convolve(int64_t taps, const float* x, const float* gate, const Layout* in, const float* weight,
              const float* bias, int64_t relu, float* y, const Layout* out, int64_t rows, int64_t begin, int64_t end,
              float* scratch) {
  (taps == 3 ? convolve<3> : convolve<2>)(x, gate, in, weight, bias, relu, y, out, rows, begin, end, scratch);
}

// Compute the gradient of weights [points, in_width, out_width] from that of the outputs of series begin to end.
void find_weight_gradient(int64_t taps, const float* x, const float* x_gate, const Layout* in, const float* grad,
                          const float* grad_gate, const Layout* out, int64_t rows, int64_t begin, int64_t end,
                          float* weight_grad, float* scratch) {
  (taps == 3 ? find_weight_gradient<3> : find_weight_gradient<2>)(x, x_gate, in, grad, grad_gate, out, rows, begin, end,
                                                                  weight_grad, scratch);
}

// Add up the samples of series begin to end, as far as their `gate` is open: sums [channels].
void add_samples(const float* x, const float* gate, const Layout* s, int64_t begin, int64_t end, float* sums,
                 float* buffer) {
  std::memset(sums, 0, s->channels * sizeof(float));
  for (int64_t series = begin; series < end; series++) {
    const float *data = x + series * s->stride(), *open = gate ? gate + series * s->stride() : nullptr;
    for (int64_t i = 0; i < s->samples; i++) {
      const float* row = find_row(data, open, s, i, buffer);
      for (int64_t j = 0; j < s->channels; j += LANES) store(sums + j, load(sums + j) + load(row + j));
    }
  }
}

}  // extern "C"
