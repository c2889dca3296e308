// Matrices times a few vectors, in four formats of weights. What a product reads is laid out so that memory is read once, in order.
//
// float32, bfloat16: rows as torch keeps them.
// int8, int4 (groups of 32 columns with a float16 scale each): tiles of 16 rows. One tile holds, for each 4 columns,
// 16 rows x 4 bytes, so that one instruction adds 4 products to each of 16 rows. Weights are kept unsigned (plus 128, plus 8)
// because the instruction takes unsigned by signed; what that adds is taken off again by the vector's own sum.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef uint16_t half_bits;

enum Format { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };
constexpr int AHEAD = 8192, STREAM = 4096;  // bytes that are asked for before they are needed
constexpr int TILE = 16, GROUP = 32, TILES = GROUP / TILE;  // rows per tile, columns per scale, tiles that make a group
constexpr int MOST = 192;                                   // vectors at a time

struct Matrix {
    int64_t format, rows, cols;
    const void* data;
    const half_bits* scales;  // (tiles, groups, 16)
    const float* bias;        // (rows) or null
    int64_t groups() const { return (cols + GROUP - 1) / GROUP; }
    int64_t tiles() const { return (rows + TILE - 1) / TILE; }
};

inline float from_bfloat16(half_bits x) {
    uint32_t bits = uint32_t(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

inline half_bits to_bfloat16(float x) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return half_bits((bits >> 16) | 64);
    return half_bits((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float from_float16(half_bits x) {
    _Float16 y;
    std::memcpy(&y, &x, 2);
    return float(y);
}

inline float load(const void* x, int64_t at, bool bfloat16) {
    return bfloat16 ? from_bfloat16(static_cast<const half_bits*>(x)[at]) : static_cast<const float*>(x)[at];
}

inline void store(void* x, int64_t at, float value, bool bfloat16) {
    if (bfloat16)
        static_cast<half_bits*>(x)[at] = to_bfloat16(value);
    else
        static_cast<float*>(x)[at] = value;
}

// A vector as a product wants it: rounded to bfloat16, or to int8 with a scale per group, or as it is.
struct Vectors {
    int64_t cols, groups;
    float* plain;      // (vectors, groups * 32)
    half_bits* brief;  // (vectors, groups * 32)
    int8_t* whole;     // (vectors, groups * 32)
    float* scales;     // (vectors, groups)
    int32_t* sums;     // (vectors, groups)

    static int64_t bytes(int64_t vectors, int64_t cols) {
        int64_t groups = (cols + GROUP - 1) / GROUP;
        return vectors * groups * (GROUP * 7 + 8) + 64 * 8;
    }

    Vectors(char*& room, int64_t vectors, int64_t cols_) : cols(cols_), groups((cols_ + GROUP - 1) / GROUP) {
        auto take = [&](int64_t bytes) {
            char* at = room;
            room += (bytes + 63) / 64 * 64;
            return at;
        };
        plain = reinterpret_cast<float*>(take(vectors * groups * GROUP * 4));
        brief = reinterpret_cast<half_bits*>(take(vectors * groups * GROUP * 2));
        whole = reinterpret_cast<int8_t*>(take(vectors * groups * GROUP));
        scales = reinterpret_cast<float*>(take(vectors * groups * 4));
        sums = reinterpret_cast<int32_t*>(take(vectors * groups * 4));
    }

    float* row(int64_t m) const { return plain + m * groups * GROUP; }

    // Group g of vector m, from `plain`; columns beyond the last count as zero.
    void round(int64_t m, int64_t g, int64_t format) const {
        float* x = row(m) + g * GROUP;
        for (int64_t i = std::min<int64_t>(cols - g * GROUP, GROUP); i < GROUP; i++) x[i] = 0;
        if (format == BFLOAT16) {
            half_bits* y = brief + (m * groups + g) * GROUP;
            for (int i = 0; i < GROUP; i++) y[i] = to_bfloat16(x[i]);
        } else if (format != FLOAT32) {
            float most = 0;
            for (int i = 0; i < GROUP; i++) most = std::max(most, std::fabs(x[i]));
            float scale = most / 127, inverse = most > 0 ? 127 / most : 0;
            int8_t* y = whole + (m * groups + g) * GROUP;
            int32_t sum = 0;
            for (int i = 0; i < GROUP; i++) {
                int32_t rounded = int32_t(std::nearbyintf(x[i] * inverse));
                y[i] = int8_t(rounded);
                sum += rounded;
            }
            scales[m * groups + g] = scale;
            sums[m * groups + g] = sum;
        }
    }
};

#if defined(__AVX512F__)
inline __m512 halves(const half_bits* x) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))); }
#endif

#if defined(__AVX512BF16__)
// Sixteen vectors -> their sixteen sums, in order.
inline __m512 sums_of(const __m512* v) {
    __m512 fours[4];
    for (int i = 0; i < 4; i++) {
        const __m512 *a = v + i * 4;
        __m512d low = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
        __m512d high = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
        fours[i] = _mm512_add_ps((__m512)_mm512_unpacklo_pd(low, high), (__m512)_mm512_unpackhi_pd(low, high));
    }
    auto joined = [](__m512 a, __m512 b) {
        return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    };
    return joined(joined(fours[0], fours[1]), joined(fours[2], fours[3]));
}

#endif

inline void quad(int32_t* sums, const uint8_t* weights, const int8_t* x) {  // the plain twin of the instruction
    for (int row = 0; row < TILE; row++)
        for (int i = 0; i < 4; i++) sums[row] += int32_t(weights[row * 4 + i]) * x[i];
}

// out (M, 16): one tile of int8 or int4 weights times M vectors.
template <int M, int FORMAT>
inline void tile_product(const Matrix& w, int64_t tile, const Vectors& x, int64_t first, float* out) {
    constexpr int BYTES = FORMAT == INT8 ? 512 : 256, OFFSET = FORMAT == INT8 ? 128 : 8;
    const int64_t groups = w.groups();
    const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * groups * BYTES;
    const half_bits* scales = w.scales + tile * groups * TILE;
#if defined(__AVX512VNNI__)
    __m512 total[M];
    for (int m = 0; m < M; m++) total[m] = _mm512_setzero_ps();
    const __m512i low = _mm512_set1_epi8(15);
    for (int64_t g = 0; g < groups; g++, data += BYTES) {
        __m512i sum[M];
        const int32_t* quads[M];
        for (int m = 0; m < M; m++) {
            int64_t at = (first + m) * groups + g;
            sum[m] = _mm512_set1_epi32(-OFFSET * x.sums[at]);
            quads[m] = reinterpret_cast<const int32_t*>(x.whole + at * GROUP);
        }
        for (int j = 0; j < (FORMAT == INT8 ? 8 : 4); j++) {
            __m512i bytes = _mm512_loadu_si512(data + j * 64);
            _mm_prefetch(reinterpret_cast<const char*>(data) + j * 64 + AHEAD, _MM_HINT_T0);
            if (FORMAT == INT8) {
                for (int m = 0; m < M; m++) sum[m] = _mm512_dpbusd_epi32(sum[m], bytes, _mm512_set1_epi32(quads[m][j]));
            } else {
                __m512i lower = _mm512_and_si512(bytes, low), upper = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
                for (int m = 0; m < M; m++) {
                    sum[m] = _mm512_dpbusd_epi32(sum[m], lower, _mm512_set1_epi32(quads[m][j]));
                    sum[m] = _mm512_dpbusd_epi32(sum[m], upper, _mm512_set1_epi32(quads[m][j + 4]));
                }
            }
        }
        __m512 scale = halves(scales + g * TILE);
        for (int m = 0; m < M; m++) {
            __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[(first + m) * groups + g]));
            total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[m]), both, total[m]);
        }
    }
    for (int m = 0; m < M; m++) _mm512_storeu_ps(out + m * TILE, total[m]);
#else
    std::fill(out, out + M * TILE, 0.0f);
    for (int64_t g = 0; g < groups; g++, data += BYTES)
        for (int m = 0; m < M; m++) {
            int64_t at = (first + m) * groups + g;
            const int8_t* quads = x.whole + at * GROUP;
            int32_t sums[TILE];
            std::fill(sums, sums + TILE, -OFFSET * x.sums[at]);
            for (int j = 0; j < (FORMAT == INT8 ? 8 : 4); j++) {
                if (FORMAT == INT8) {
                    quad(sums, data + j * 64, quads + j * 4);
                } else {
                    uint8_t part[64];
                    for (int i = 0; i < 64; i++) part[i] = data[j * 64 + i] & 15;
                    quad(sums, part, quads + j * 4);
                    for (int i = 0; i < 64; i++) part[i] = data[j * 64 + i] >> 4;
                    quad(sums, part, quads + (j + 4) * 4);
                }
            }
            for (int row = 0; row < TILE; row++)
                out[m * TILE + row] += float(sums[row]) * from_float16(scales[g * TILE + row]) * x.scales[at];
        }
#endif
}

#if defined(__AVX512BF16__)
// out (M, 16): one tile of bfloat16 rows times M vectors. With one vector memory is all that counts, and it is read in order; with
// more, four rows at a time. A sum's order is the same for any M, so that a row gets the same bits alone and among others.
template <int M>
inline void brief_product(const Matrix& w, int64_t tile, const Vectors& x, int64_t first, float* out) {
    constexpr int ROWS = M == 1 ? 1 : 4, SOON = M == 1 ? STREAM : AHEAD;
    const int64_t last = std::min<int64_t>(w.rows - tile * TILE, TILE), wide = x.groups * GROUP, full = w.cols / 32 * 32;
    const __mmask32 inside = (1u << (w.cols - full)) - 1;
    __m512 sums[M][TILE];
    for (int64_t r = 0; r < TILE; r += ROWS) {
        const half_bits* rows[ROWS];
        for (int i = 0; i < ROWS; i++)
            rows[i] = static_cast<const half_bits*>(w.data) + (tile * TILE + std::min<int64_t>(r + i, last - 1)) * w.cols;
        __m512 sum[M][ROWS];
        for (int m = 0; m < M; m++)
            for (int i = 0; i < ROWS; i++) sum[m][i] = _mm512_setzero_ps();
        auto add = [&](int64_t c, const __m512i* weights) {
            for (int m = 0; m < M; m++) {
                __m512bh vector = (__m512bh)_mm512_loadu_si512(x.brief + (first + m) * wide + c);
                for (int i = 0; i < ROWS; i++) sum[m][i] = _mm512_dpbf16_ps(sum[m][i], (__m512bh)weights[i], vector);
            }
        };
        __m512i weights[ROWS];
        for (int64_t c = 0; c < full; c += 32) {
            for (int i = 0; i < ROWS; i++) {
                weights[i] = _mm512_loadu_si512(rows[i] + c);
                _mm_prefetch(reinterpret_cast<const char*>(rows[i] + c) + SOON, _MM_HINT_T0);
            }
            add(c, weights);
        }
        if (inside) {
            for (int i = 0; i < ROWS; i++) weights[i] = _mm512_maskz_loadu_epi16(inside, rows[i] + full);
            add(full, weights);
        }
        for (int m = 0; m < M; m++)
            for (int i = 0; i < ROWS; i++) sums[m][r + i] = sum[m][i];
    }
    for (int m = 0; m < M; m++) _mm512_storeu_ps(out + m * TILE, sums_of(sums[m]));
}
#endif

// out (M, 16): one tile of float rows times M vectors, `read` making a number of what is kept
template <int M, typename Value, typename Read>
inline void plain_product(const Matrix& w, int64_t tile, const Value* x, int64_t wide, Read read, float* out) {
    for (int64_t i = 0; i < std::min<int64_t>(w.rows - tile * TILE, TILE); i++)
        for (int m = 0; m < M; m++) {
            const Value *a = static_cast<const Value*>(w.data) + (tile * TILE + i) * w.cols, *b = x + m * wide;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t c = 0; c < w.cols; c++) sum += read(a[c]) * read(b[c]);
            out[m * TILE + i] = sum;
        }
}

template <int M>
inline void some_products(const Matrix& w, int64_t tile, const Vectors& x, int64_t first, float* out) {
    const int64_t wide = x.groups * GROUP;
    if (w.format == INT8) tile_product<M, INT8>(w, tile, x, first, out);
    if (w.format == INT4) tile_product<M, INT4>(w, tile, x, first, out);
    if (w.format == FLOAT32) plain_product<M>(w, tile, x.row(first), wide, [](float a) { return a; }, out);
    if (w.format != BFLOAT16) return;
#if defined(__AVX512BF16__)
    brief_product<M>(w, tile, x, first, out);
#else
    plain_product<M>(w, tile, x.brief + first * wide, wide, from_bfloat16, out);
#endif
}

// out (vectors, 16): one tile of rows times all vectors, bias added.
inline void products(const Matrix& w, int64_t tile, const Vectors& x, int64_t vectors, float* out) {
    int64_t m = 0;
    for (; m + 6 <= vectors; m += 6) some_products<6>(w, tile, x, m, out + m * TILE);
    for (; m + 4 <= vectors; m += 4) some_products<4>(w, tile, x, m, out + m * TILE);
    for (; m + 2 <= vectors; m += 2) some_products<2>(w, tile, x, m, out + m * TILE);
    if (m < vectors) some_products<1>(w, tile, x, m, out + m * TILE);
    if (w.bias)
        for (int64_t i = 0; i < vectors; i++)
            for (int64_t row = 0; row < std::min<int64_t>(w.rows - tile * TILE, TILE); row++)
                out[i * TILE + row] += w.bias[tile * TILE + row];
}

// A thread's share of `count` things.
inline void share(int64_t count, int64_t& begin, int64_t& end) {
    int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
    begin = count * me / threads;
    end = count * (me + 1) / threads;
}
