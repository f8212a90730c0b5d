// Search for the nearest code, for AVX2 or AVX-512: the scores of a tile of vectors and codes stay in registers, and
// only the lowest score of each vector, with the index of its code, leaves them.
//
// A score is |c|^2 - 2 x.c. It is accumulated in the order of the channels, with one rounding per channel (a fused
// multiply-add), and the norm is added last. So it is the same number for any tile, number of threads and vector
// length, and the one that a matrix product in this order gives.

#include <immintrin.h>

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
#endif

constexpr int ROWS = 6;    // vectors of a tile
constexpr int GROUPS = 2;  // registers of codes of a tile: 12 sums, two of codes and one of a vector are 15 registers
constexpr int PANEL = GROUPS * LANES;
constexpr int MAX_WIDTH = 128;

// Find the lowest score of ROWS vectors [ROWS, width], and the first index of that score.
void search_tile(const float* x, const float* panels, const float* norms, int64_t num_panels, int64_t width,
                 float* scores, int64_t* ids) {
  Floats best[ROWS];
  Ints best_group[ROWS];
  for (int r = 0; r < ROWS; r++) {
    best[r] = fill(INFINITY);
    best_group[r] = fill_ints(0);
  }
  for (int64_t panel = 0; panel < num_panels; panel++) {
    Floats sums[ROWS][GROUPS];
    for (int g = 0; g < GROUPS; g++) {
      const Floats codes = load(panels + g * LANES);
      for (int r = 0; r < ROWS; r++) sums[r][g] = multiply(fill(x[r * width]), codes);
    }
    for (int64_t j = 1; j < width; j++) {
      Floats codes[GROUPS];
      for (int g = 0; g < GROUPS; g++) codes[g] = load(panels + j * PANEL + g * LANES);
      for (int r = 0; r < ROWS; r++) {
        const Floats value = fill(x[r * width + j]);
        for (int g = 0; g < GROUPS; g++) sums[r][g] = multiply_add(value, codes[g], sums[r][g]);
      }
    }
    for (int g = 0; g < GROUPS; g++) {
      const Floats norm = load(norms + panel * PANEL + g * LANES);
      const Ints group = fill_ints(static_cast<int>(panel * GROUPS + g));
      for (int r = 0; r < ROWS; r++) keep_lowest(add(sums[r][g], norm), group, best[r], best_group[r]);
    }
    panels += width * PANEL;
  }
  for (int r = 0; r < ROWS; r++) {
    float lane_scores[LANES];
    int lane_groups[LANES];
    store(lane_scores, best[r]);
    store(lane_groups, best_group[r]);
    scores[r] = lane_scores[0];
    ids[r] = static_cast<int64_t>(lane_groups[0]) * LANES;
    for (int lane = 1; lane < LANES; lane++) {
      const int64_t index = static_cast<int64_t>(lane_groups[lane]) * LANES + lane;
      if (lane_scores[lane] < scores[r] || (lane_scores[lane] == scores[r] && index < ids[r])) {
        scores[r] = lane_scores[lane];
        ids[r] = index;
      }
    }
  }
}

}  // namespace

extern "C" {

// Codes of a panel; the codebook is padded to whole panels.
int64_t panel_size() { return PANEL; }

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
// it, or not finite: their ids [rows] and scores [rows] mean nothing. `squares` are the norms |x - mean|^2.
int64_t search(const float* x, const float* mean, const float* panels, const float* norms, int64_t rows,
               int64_t num_panels, int64_t width, float max_square, float* scores, float* squares, int64_t* ids) {
  float centered[ROWS * MAX_WIDTH], tile_scores[ROWS];
  int64_t tile_ids[ROWS], out_of_range = 0;
  for (int64_t first = 0; first < rows; first += ROWS) {
    const int64_t count = rows - first < ROWS ? rows - first : ROWS;
    for (int64_t r = 0; r < count; r++) {
      float square = 0;
      for (int64_t j = 0; j < width; j++) {
        const float value = x[(first + r) * width + j] - mean[j];
        centered[r * width + j] = value;
        square += value * value;
      }
      squares[first + r] = square;
      out_of_range += !(square <= max_square);
    }
    for (int64_t i = count * width; i < ROWS * width; i++) centered[i] = 0;
    search_tile(centered, panels, norms, num_panels, width, tile_scores, tile_ids);
    for (int64_t r = 0; r < count; r++) {
      scores[first + r] = tile_scores[r];
      ids[first + r] = tile_ids[r];
    }
  }
  return out_of_range;
}
}
