// Scaled dot-product attention of short sequences and narrow heads, forward and backward, one head after another.
//
// Scores, probabilities and their gradients stay in the cache: a head is computed in blocks of queries, and only the
// output and two numbers for each row of scores leave it. The backward pass computes the probabilities again; with one
// number, the logarithm of the sum, those of large scores would lose digits.

#include "simd.h"

namespace {

typedef int16_t Shorts __attribute__((vector_size(LANES * 2)));

#ifdef __AVX512F__
inline float sum(Floats x) { return _mm512_reduce_add_ps((__m512)x); }
inline float highest(Floats x) { return _mm512_reduce_max_ps((__m512)x); }
#else
inline float sum(Floats x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
inline float highest(Floats x) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
#endif

// e^x for x <= 0 to rounding; 0 below -87.
inline Floats exponential(Floats x) {
  const Floats shift = fill(12582912.0f);  // adding 1.5 * 2^23 rounds to a whole number
  const Ints is_small = x < -87.0f;
  x = is_small ? Floats{} : x;
  const Floats n = multiply_add(x, fill(1.44269504f), shift) - shift;
  Floats r = multiply_add(n, fill(-0.693145752f), x);
  r = multiply_add(n, fill(-1.42860677e-6f), r);
  Floats p = fill(1.98756915e-4f);
  p = multiply_add(p, r, fill(1.39819995e-3f));
  p = multiply_add(p, r, fill(8.33345205e-3f));
  p = multiply_add(p, r, fill(4.16657962e-2f));
  p = multiply_add(p, r, fill(1.66666657e-1f));
  p = multiply_add(p, r, fill(0.5f));
  p = multiply_add(p, r * r, r + 1.0f);
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats power;
  std::memcpy(&power, &exponent, sizeof power);
  return is_small ? Floats{} : p * power;
}

int64_t pad(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

// In numbers, between series, tokens and heads.
struct Strides {
  int64_t series, token, head;
};

// Sizes of a call: queries are computed in blocks; `threshold` is the lowest random number that keeps a probability;
// `bias` [series or 1, keys, padded] is 0 at keys that may be attended to, -inf at others, and its stride is 0 for one.
struct Sizes {
  int64_t heads, queries, keys, width, block, causal, threshold, bias;
  Strides q, k, v, out;
};

// Rows of numbers, `stride` apart.
struct Rows {
  const float* data;
  int64_t stride;
};

constexpr int PART = 8;  // numbers that are copied at once

// Rows [rows, width] of whole vectors: those of x, or copies in `buffer` with zeros at their ends.
Rows pack(const float* x, int64_t stride, int64_t rows, int64_t width, float* buffer) {
  const int64_t padded = pad(width);
  if (width == padded) return {x, stride};
  for (int64_t i = 0; i < rows; i++) {
    const float* from = x + i * stride;
    float* to = buffer + i * padded;
    int64_t j = 0;
    for (; j + PART <= width; j += PART) std::memcpy(to + j, from + j, PART * sizeof(float));
    for (; j < padded; j++) to[j] = j < width ? from[j] : 0;
  }
  return {buffer, padded};
}

// Copy rows [rows, width] as columns of `padded` numbers, PART rows at a time: more of them, if they are far apart,
// displace each other in the cache.
void pack_transposed(const float* x, int64_t stride, int64_t rows, int64_t width, int64_t padded, float* out) {
  int64_t first = 0;
  for (; first + PART <= rows; first += PART)
    for (int64_t j = 0; j < width; j++)
      for (int64_t i = first; i < first + PART; i++) out[j * padded + i] = x[i * stride + j];
  for (int64_t j = 0; j < width; j++)
    for (int64_t i = first; i < padded; i++) out[j * padded + i] = i < rows ? x[i * stride + j] : 0;
}

void unpack(const float* x, int64_t rows, int64_t width, float* out, int64_t stride) {
  const int64_t padded = pad(width);
  for (int64_t i = 0; i < rows; i++) {
    const float* from = x + i * padded;
    float* to = out + i * stride;
    int64_t j = 0;
    for (; j + PART <= width; j += PART) std::memcpy(to + j, from + j, PART * sizeof(float));
    for (; j < width; j++) to[j] = from[j];
  }
}

void clear(float* x, int64_t rows, int64_t width, int64_t stride) {
  for (int64_t i = 0; i < rows; i++) std::memset(x + i * stride, 0, width * sizeof(float));
}

Ints count_lanes() {
  Ints lanes;
  for (int i = 0; i < LANES; i++) lanes[i] = i;
  return lanes;
}

// Scale scores of a query and hide the keys that it must not see: `bias` is -inf there, and so is the score.
inline Floats mask(Floats scores, float scale, const float* bias, int64_t j, int64_t last_key) {
  scores = multiply_add(scores, fill(scale), load(bias + j));
  if (j + LANES <= last_key + 1) return scores;
  const Ints index = count_lanes() + static_cast<int32_t>(j);
  return index > static_cast<int32_t>(last_key) ? fill(-__builtin_inff()) : scores;
}

// Columns of scores, in whole vectors, that the first `queries` queries of a head may see.
int64_t count_visible(const Sizes* s, int64_t queries) {
  const int64_t keys = pad(s->keys), visible = pad(queries + s->keys - s->queries);
  return !s->causal || visible > keys ? keys : visible < LANES ? LANES : visible;
}

// 1 / (1 - rate) for probabilities that dropout keeps, 0 for others.
inline Floats draw(const int16_t* bits, int64_t threshold, float kept) {
  Shorts drawn;
  std::memcpy(&drawn, bits, sizeof drawn);
  const Ints number = __builtin_convertvector(drawn, Ints);
  return number >= static_cast<int32_t>(threshold) ? fill(kept) : Floats{};
}

}  // namespace

extern "C" {

// Numbers of scratch memory that `forward` and `backward` need.
int64_t scratch_size(const Sizes* s) {
  const int64_t keys = pad(s->keys), width = pad(s->width);
  return 2 * (s->block + s->width) * keys + (3 * s->keys + 3 * s->block) * width;
}

// Attend in heads begin to end of [series x heads]. Return out [series, queries, heads, width] and, for each row of
// scores, the highest one and 1 / sum(e^(score - highest)): stats [series x heads, queries, 2].
void forward(const float* q, const float* k, const float* v, const float* bias, const int16_t* bits, int64_t begin,
             int64_t end, const Sizes* s, float scale, float kept, float* out, float* stats, float* scratch) {
  const int64_t n = s->queries, m = s->keys, d = s->width, keys = pad(m), width = pad(d);
  const bool is_whole = d == width;
  float *transposed = scratch, *scores = transposed + d * keys, *v_buffer = scores + s->block * keys,
        *outputs = v_buffer + m * width;
  for (int64_t head = begin; head < end; head++) {
    const int64_t series = head / s->heads, h = head % s->heads;
    const float* queries = q + series * s->q.series + h * s->q.head;
    pack_transposed(k + series * s->k.series + h * s->k.head, s->k.token, m, d, keys, transposed);
    const Rows values = pack(v + series * s->v.series + h * s->v.head, s->v.token, m, d, v_buffer);
    float* y = out + series * s->out.series + h * s->out.head;
    for (int64_t first = 0; first < n; first += s->block) {
      const int64_t rows = n - first < s->block ? n - first : s->block, visible = count_visible(s, first + rows);
      multiply<false>(queries + first * s->q.token, s->q.token, 1, transposed, keys, rows, d, visible, scores, keys);
      for (int64_t i = 0; i < rows; i++) {
        float* row = scores + i * keys;
        const int64_t query = first + i, last_key = s->causal ? query + m - n : keys;
        Floats best = fill(-__builtin_inff()), total{};
        for (int64_t j = 0; j < visible; j += LANES) {
          const Floats x = mask(load(row + j), scale, bias + series * s->bias, j, last_key);
          store(row + j, x);
          best = x > best ? x : best;
        }
        const float peak = highest(best), origin = peak == -__builtin_inff() ? 0 : peak;
        for (int64_t j = 0; j < visible; j += LANES) {
          const Floats p = exponential(load(row + j) - origin);
          store(row + j, p);
          total += p;
        }
        const float all = sum(total), inverse = all > 0 ? 1 / all : 0;
        stats[2 * (head * n + query)] = origin, stats[2 * (head * n + query) + 1] = inverse;
        const int16_t* draws = bits + (head * n + query) * m;
        for (int64_t j = 0; j < visible; j += LANES) {
          const Floats p = load(row + j) * inverse;
          store(row + j, bits ? p * draw(draws + j, s->threshold, kept) : p);
        }
      }
      float* to = y + first * s->out.token;
      multiply<false>(scores, keys, 1, values.data, values.stride, rows, visible < m ? visible : m, width,
                      is_whole ? to : outputs, is_whole ? s->out.token : width);
      if (!is_whole) unpack(outputs, rows, d, to, s->out.token);
    }
  }
}

// Gradients dq, dk and dv, strided as q_to and k_to say, from that of out, whose strides are those of out in `s`.
void backward(const float* q, const float* k, const float* v, const float* bias, const int16_t* bits,
              const float* stats, const float* grad, int64_t begin, int64_t end, const Sizes* s,
              const Strides* q_to, const Strides* k_to, float scale, float kept, float* dq, float* dk, float* dv,
              float* scratch) {
  const int64_t n = s->queries, m = s->keys, d = s->width, keys = pad(m), width = pad(d);
  const bool is_whole = d == width;
  float *k_transposed = scratch, *v_transposed = k_transposed + d * keys, *probs = v_transposed + d * keys,
        *score_grad = probs + s->block * keys, *k_buffer = score_grad + s->block * keys,
        *q_buffer = k_buffer + m * width, *g_buffer = q_buffer + s->block * width,
        *dq_buffer = g_buffer + s->block * width, *dk_buffer = dq_buffer + s->block * width,
        *dv_buffer = dk_buffer + m * width;
  for (int64_t head = begin; head < end; head++) {
    const int64_t series = head / s->heads, h = head % s->heads;
    const float *queries = q + series * s->q.series + h * s->q.head, *key = k + series * s->k.series + h * s->k.head,
                *grads = grad + series * s->out.series + h * s->out.head;
    pack_transposed(key, s->k.token, m, d, keys, k_transposed);
    pack_transposed(v + series * s->v.series + h * s->v.head, s->v.token, m, d, keys, v_transposed);
    const Rows k_rows = pack(key, s->k.token, m, d, k_buffer);
    const int64_t place = series * k_to->series + h * k_to->head;
    float *dk_rows = is_whole ? dk + place : dk_buffer, *dv_rows = is_whole ? dv + place : dv_buffer;
    const int64_t to_stride = is_whole ? k_to->token : width;
    clear(dk_rows, m, width, to_stride);
    clear(dv_rows, m, width, to_stride);
    for (int64_t first = 0; first < n; first += s->block) {
      const int64_t rows = n - first < s->block ? n - first : s->block, visible = count_visible(s, first + rows);
      const int64_t inner = visible < m ? visible : m;
      const Rows q_rows = pack(queries + first * s->q.token, s->q.token, rows, d, q_buffer);
      const Rows g_rows = pack(grads + first * s->out.token, s->out.token, rows, d, g_buffer);
      multiply<false>(q_rows.data, q_rows.stride, 1, k_transposed, keys, rows, d, visible, probs, keys);
      multiply<false>(g_rows.data, g_rows.stride, 1, v_transposed, keys, rows, d, visible, score_grad, keys);
      for (int64_t i = 0; i < rows; i++) {
        float *p_row = probs + i * keys, *s_row = score_grad + i * keys;
        const int64_t query = first + i, last_key = s->causal ? query + m - n : keys;
        const float origin = stats[2 * (head * n + query)], inverse = stats[2 * (head * n + query) + 1];
        const int16_t* draws = bits + (head * n + query) * m;
        Floats total{};
        for (int64_t j = 0; j < visible; j += LANES) {
          const Floats x = mask(load(p_row + j), scale, bias + series * s->bias, j, last_key);
          const Floats p = exponential(x - origin) * inverse;
          Floats dp = load(s_row + j);
          if (bits) dp *= draw(draws + j, s->threshold, kept);
          store(s_row + j, dp);
          store(p_row + j, p);
          total = multiply_add(p, dp, total);
        }
        const float delta = sum(total);
        for (int64_t j = 0; j < visible; j += LANES) {
          const Floats p = load(p_row + j);
          store(s_row + j, p * scale * (load(s_row + j) - delta));
          if (bits) store(p_row + j, p * draw(draws + j, s->threshold, kept));
        }
      }
      multiply<true>(probs, 1, keys, g_rows.data, g_rows.stride, inner, rows, width, dv_rows, to_stride);
      multiply<true>(score_grad, 1, keys, q_rows.data, q_rows.stride, inner, rows, width, dk_rows, to_stride);
      float* to = dq + series * q_to->series + h * q_to->head + first * q_to->token;
      multiply<false>(score_grad, keys, 1, k_rows.data, k_rows.stride, rows, inner, width, is_whole ? to : dq_buffer,
                      is_whole ? q_to->token : width);
      if (!is_whole) unpack(dq_buffer, rows, d, to, q_to->token);
    }
    if (!is_whole) {
      unpack(dk_rows, m, d, dk + place, k_to->token);
      unpack(dv_rows, m, d, dv + place, k_to->token);
    }
  }
}
}
