// Search for the nearest code, for AVX2 or AVX-512: the scores of a tile of vectors and codes stay in registers (up to
// a width of CHANNELS), and only the lowest score of each vector, with the index of its code, leaves them.
//
// A score is |c|^2 - 2 x.c. Each block of CHANNELS is summed up in their order, with one rounding per channel (a fused
// multiply-add); the norm is added to the last block, then the blocks to each other. So it is the same number for any
// tile, number of threads and vector length, and the one that matrix products of these blocks, in this order, give.

#include <immintrin.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
using Floats = __m512;
using Ints = __m512i;

inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline Floats fill(float x) { return _mm512_set1_ps(x); }
inline Ints fill_ints(int x) { return _mm512_set1_epi32(x); }
inline void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
inline void store(int* p, Ints x) { _mm512_storeu_si512(p, x); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

inline void keep_lowest(Floats score, Ints index, Floats& best, Ints& best_index) {
  best_index = _mm512_mask_mov_epi32(best_index, _mm512_cmp_ps_mask(score, best, _CMP_LT_OQ), index);
  best = _mm512_min_ps(score, best);
}

// Select the lowest score of all lanes, and the first index of that score.
inline void select_lane(Floats scores, Ints groups, float& score, int64_t& id) {
  score = _mm512_reduce_min_ps(scores);
  const __mmask16 lowest = _mm512_cmp_ps_mask(scores, fill(score), _CMP_EQ_OQ);
  const int group = _mm512_mask_reduce_min_epi32(lowest, groups);
  const int lanes = _mm512_mask_cmpeq_epi32_mask(lowest, groups, fill_ints(group));
  id = static_cast<int64_t>(group) * LANES + __builtin_ctz(lanes);
}
#else
constexpr int LANES = 8;
using Floats = __m256;
using Ints = __m256i;

inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline Floats fill(float x) { return _mm256_set1_ps(x); }
inline Ints fill_ints(int x) { return _mm256_set1_epi32(x); }
inline void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
inline void store(int* p, Ints x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

inline void keep_lowest(Floats score, Ints index, Floats& best, Ints& best_index) {
  const Floats less = _mm256_cmp_ps(score, best, _CMP_LT_OQ);
  best_index = _mm256_castps_si256(
      _mm256_blendv_ps(_mm256_castsi256_ps(best_index), _mm256_castsi256_ps(index), less));
  best = _mm256_min_ps(score, best);
}

inline void select_lane(Floats scores, Ints groups, float& score, int64_t& id) {
  __m128 low = _mm_min_ps(_mm256_castps256_ps128(scores), _mm256_extractf128_ps(scores, 1));
  low = _mm_min_ps(low, _mm_movehl_ps(low, low));
  score = _mm_cvtss_f32(_mm_min_ss(low, _mm_movehdup_ps(low)));
  const Ints lowest = _mm256_castps_si256(_mm256_cmp_ps(scores, fill(score), _CMP_EQ_OQ));
  groups = _mm256_blendv_epi8(fill_ints(INT_MAX), groups, lowest);
  __m128i first = _mm_min_epi32(_mm256_castsi256_si128(groups), _mm256_extracti128_si256(groups, 1));
  first = _mm_min_epi32(first, _mm_shuffle_epi32(first, 0x4e));
  const int group = _mm_cvtsi128_si32(_mm_min_epi32(first, _mm_shuffle_epi32(first, 0xb1)));
  const int lanes = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(groups, fill_ints(group))));
  id = static_cast<int64_t>(group) * LANES + __builtin_ctz(lanes);
}
#endif

constexpr int ROWS = 6;    // vectors of a tile
constexpr int GROUPS = 2;  // registers of codes of a tile: 12 sums, two of codes and one of a vector are 15 registers
constexpr int PANEL = GROUPS * LANES;
constexpr int CHANNELS = 128;  // of a block that is summed up in order, as in `torch.py`
// A chunk of vectors is compared with one chunk of panels after the other, so that both are read from the second level
// of the cache.
constexpr int64_t PANEL_VALUES = 1 << 16;  // of a chunk of panels
constexpr int64_t TILES = 16;              // of a chunk of vectors

// The lowest score of each vector of a tile in each lane, and the first group (register) of codes that has it.
struct Lowest {
  Floats scores[ROWS];
  Ints groups[ROWS];
};

using Sums = Floats[ROWS][GROUPS];

// Sum up channels [start, stop) of the products of ROWS vectors [ROWS, width] and the codes of a panel.
inline void sum_products(const float* x, const float* panel, int64_t width, int64_t start, int64_t stop, Sums& sums) {
  for (int g = 0; g < GROUPS; g++) {
    const Floats codes = load(panel + start * PANEL + g * LANES);
    for (int r = 0; r < ROWS; r++) sums[r][g] = multiply(fill(x[r * width + start]), codes);
  }
  for (int64_t j = start + 1; j < stop; j++) {
    Floats codes[GROUPS];
    for (int g = 0; g < GROUPS; g++) codes[g] = load(panel + j * PANEL + g * LANES);
    for (int r = 0; r < ROWS; r++) {
      const Floats value = fill(x[r * width + j]);
      for (int g = 0; g < GROUPS; g++) sums[r][g] = multiply_add(value, codes[g], sums[r][g]);
    }
  }
}

// Lower the scores of a tile of vectors x [ROWS, width] by those of the codes of panels [first, last).
template <bool IS_WIDE>
void search_panels(const float* x, const float* panels, const float* norms, int64_t first, int64_t last,
                   int64_t width, Lowest& lowest) {
  Floats best[ROWS];
  Ints best_group[ROWS];
  for (int r = 0; r < ROWS; r++) {
    best[r] = lowest.scores[r];
    best_group[r] = lowest.groups[r];
  }
  for (int64_t panel = first; panel < last; panel++) {
    const float* codes = panels + panel * width * PANEL;
    Sums sums, total;
    int64_t start = 0;
    if (IS_WIDE) {
      sum_products(x, codes, width, 0, CHANNELS, total);
      for (start = CHANNELS; start + CHANNELS < width; start += CHANNELS) {
        sum_products(x, codes, width, start, start + CHANNELS, sums);
        for (int r = 0; r < ROWS; r++)
          for (int g = 0; g < GROUPS; g++) total[r][g] = add(total[r][g], sums[r][g]);
      }
    }
    sum_products(x, codes, width, start, width, sums);
    for (int g = 0; g < GROUPS; g++) {
      const Floats norm = load(norms + panel * PANEL + g * LANES);
      const Ints group = fill_ints(static_cast<int>(panel * GROUPS + g));
      for (int r = 0; r < ROWS; r++) {
        const Floats score = add(sums[r][g], norm);
        keep_lowest(IS_WIDE ? add(total[r][g], score) : score, group, best[r], best_group[r]);
      }
    }
  }
  for (int r = 0; r < ROWS; r++) {
    lowest.scores[r] = best[r];
    lowest.groups[r] = best_group[r];
  }
}

// Subtract the mean from a vector [width], and return the square of its norm: the same sum for all instructions.
float center(const float* x, const float* mean, int64_t width, float* centered) {
  __m256 sums = _mm256_setzero_ps();
  int64_t j = 0;
  for (; j + 8 <= width; j += 8) {
    const __m256 values = _mm256_sub_ps(_mm256_loadu_ps(x + j), _mm256_loadu_ps(mean + j));
    _mm256_storeu_ps(centered + j, values);
    sums = _mm256_add_ps(sums, _mm256_mul_ps(values, values));
  }
  float squares[8];
  _mm256_storeu_ps(squares, sums);
  for (int k = 0; j < width; j++, k++) {
    centered[j] = x[j] - mean[j];
    squares[k] += centered[j] * centered[j];
  }
  for (int half = 4; half > 0; half /= 2)
    for (int k = 0; k < half; k++) squares[k] += squares[k + half];
  return squares[0];
}

}  // namespace

extern "C" {

// Codes of a panel; the codebook is padded to whole panels.
int64_t panel_size() { return PANEL; }

// Vectors of a chunk.
int64_t chunk_size() { return ROWS * TILES; }

// Arrange centred codes [num_codes, width] as panels [panels, width, PANEL] of -2 c, and pad their norms by infinity.
void pack(const float* codes, const float* squared_norms, int64_t num_codes, int64_t width, float* panels,
          float* norms) {
  for (int64_t first = 0; first < num_codes; first += PANEL) {
    for (int64_t k = 0; k < PANEL; k++) {
      const bool inside = first + k < num_codes;
      norms[first + k] = inside ? squared_norms[first + k] : INFINITY;
      for (int64_t j = 0; j < width; j++)
        panels[first * width + j * PANEL + k] = inside ? -2 * codes[(first + k) * width + j] : 0.0f;
    }
  }
}

// Search for the codes of vectors x [rows, width], less `mean`. Return how many are farther than sqrt(max_square) from
// it, or not finite: their ids [rows] and scores [rows] mean nothing. `squares` are the norms |x - mean|^2, and the
// buffer `centered` holds a chunk of vectors.
int64_t search(const float* x, const float* mean, const float* panels, const float* norms, int64_t rows,
               int64_t num_panels, int64_t width, float max_square, float* scores, float* squares, int64_t* ids,
               float* centered) {
  Lowest lowest[TILES];
  const int64_t chunk_panels = std::max<int64_t>(1, PANEL_VALUES / (PANEL * width));
  const auto search_tile = width > CHANNELS ? search_panels<true> : search_panels<false>;
  int64_t out_of_range = 0;
  for (int64_t first = 0; first < rows; first += ROWS * TILES) {
    const int64_t count = std::min(rows - first, ROWS * TILES), tiles = (count + ROWS - 1) / ROWS;
    for (int64_t r = 0; r < count; r++) {
      squares[first + r] = center(x + (first + r) * width, mean, width, centered + r * width);
      out_of_range += !(squares[first + r] <= max_square);
    }
    std::fill(centered + count * width, centered + tiles * ROWS * width, 0.0f);
    for (int64_t tile = 0; tile < tiles; tile++) {
      for (int r = 0; r < ROWS; r++) {
        lowest[tile].scores[r] = fill(INFINITY);
        lowest[tile].groups[r] = fill_ints(0);
      }
    }
    for (int64_t panel = 0; panel < num_panels; panel += chunk_panels) {
      const int64_t last = std::min(panel + chunk_panels, num_panels);
      for (int64_t tile = 0; tile < tiles; tile++)
        search_tile(centered + tile * ROWS * width, panels, norms, panel, last, width, lowest[tile]);
    }
    for (int64_t r = 0; r < count; r++) {
      const Lowest& tile = lowest[r / ROWS];
      select_lane(tile.scores[r % ROWS], tile.groups[r % ROWS], scores[first + r], ids[first + r]);
    }
  }
  return out_of_range;
}
}
