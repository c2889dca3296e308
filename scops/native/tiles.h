// Tiles of int8 or int4 weights times vectors of int8: one instruction for 4 columns of 16 rows, or two, or a loop.
#pragma once
#include "matrix.h"

#if defined(__AVX512VNNI__)
typedef __m512i Bytes;  // 4 columns of 16 rows
typedef __m512i Sums;   // of 16 rows
typedef __m512 Totals;

inline Bytes bytes_at(const uint8_t* at) { return _mm512_loadu_si512(at); }
inline Bytes lower(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline Bytes upper(Bytes x) { return lower(_mm512_srli_epi16(x, 4)); }
inline void begin_sums(Sums& sums, int32_t first) { sums = _mm512_set1_epi32(first); }
inline void begin_totals(Totals& totals) { totals = _mm512_setzero_ps(); }

template <int FORMAT>
inline void add_products(Sums& sums, const Bytes& weights, int32_t quad) {
    sums = _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32(quad));
}

inline void add_scaled(Totals& totals, const Sums& sums, const half_bits* scales, float scale) {
    const __m512 each = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
    totals = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(each, _mm512_set1_ps(scale)), totals);
}

inline void keep(float* out, const Totals& totals) { _mm512_storeu_ps(out, totals); }

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
struct Bytes {
    __m256i half[2];
};
typedef Bytes Sums;
struct Totals {
    __m256 half[2];
};

inline Bytes bytes_at(const uint8_t* at) {
    const __m256i* both = reinterpret_cast<const __m256i*>(at);
    return {_mm256_loadu_si256(both), _mm256_loadu_si256(both + 1)};
}
inline Bytes lower(const Bytes& x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.half[0], mask), _mm256_and_si256(x.half[1], mask)};
}
inline Bytes upper(const Bytes& x) { return lower({_mm256_srli_epi16(x.half[0], 4), _mm256_srli_epi16(x.half[1], 4)}); }
inline void begin_sums(Sums& sums, int32_t first) { sums.half[0] = sums.half[1] = _mm256_set1_epi32(first); }
inline void begin_totals(Totals& totals) { totals.half[0] = totals.half[1] = _mm256_setzero_ps(); }

// Pairs of products are added in 16 bits first. For 255 x 127 twice these are too few: so int8 weights become signed again, and
// their signs go to the vector.
template <int FORMAT>
inline void add_products(Sums& sums, const Bytes& weights, int32_t quad) {
    const __m256i x = _mm256_set1_epi32(quad);
    for (int i = 0; i < 2; i++) {
        __m256i pairs;
        if (FORMAT == INT8) {
            const __m256i weight = _mm256_xor_si256(weights.half[i], _mm256_set1_epi8(-128));
            pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(x, weight));
        } else {
            pairs = _mm256_maddubs_epi16(weights.half[i], x);
        }
        sums.half[i] = _mm256_add_epi32(sums.half[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
}

inline void add_scaled(Totals& totals, const Sums& sums, const half_bits* scales, float scale) {
    for (int i = 0; i < 2; i++) {
        const __m256 each = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales) + i));
        totals.half[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.half[i]), _mm256_mul_ps(each, _mm256_set1_ps(scale)), totals.half[i]);
    }
}

inline void keep(float* out, const Totals& totals) {
    for (int i = 0; i < 2; i++) _mm256_storeu_ps(out + i * 8, totals.half[i]);
}
#define SIGNED_INT8 1

#else
struct Bytes {
    uint8_t at[64];
};
struct Sums {
    int32_t row[TILE];
};
struct Totals {
    float row[TILE];
};

inline Bytes bytes_at(const uint8_t* at) {
    Bytes x;
    std::memcpy(x.at, at, 64);
    return x;
}
inline Bytes lower(Bytes x) {
    for (uint8_t& byte : x.at) byte &= 15;
    return x;
}
inline Bytes upper(Bytes x) {
    for (uint8_t& byte : x.at) byte >>= 4;
    return x;
}
inline void begin_sums(Sums& sums, int32_t first) { std::fill(sums.row, sums.row + TILE, first); }
inline void begin_totals(Totals& totals) { std::fill(totals.row, totals.row + TILE, 0.0f); }

template <int FORMAT>
inline void add_products(Sums& sums, const Bytes& weights, int32_t quad) {
    int8_t x[4];
    std::memcpy(x, &quad, 4);
    for (int row = 0; row < TILE; row++)
        for (int i = 0; i < 4; i++) sums.row[row] += int32_t(weights.at[row * 4 + i]) * x[i];
}

inline void add_scaled(Totals& totals, const Sums& sums, const half_bits* scales, float scale) {
    for (int row = 0; row < TILE; row++) totals.row[row] += float(sums.row[row]) * from_float16(scales[row]) * scale;
}

inline void keep(float* out, const Totals& totals) { std::copy(totals.row, totals.row + TILE, out); }
#endif

// What unsigned weights add too much, by which the vector's own sum is taken off again.
template <int FORMAT>
constexpr int32_t offset() {
#if defined(SIGNED_INT8)
    return FORMAT == INT8 ? 0 : 8;
#else
    return FORMAT == INT8 ? 128 : 8;
#endif
}

// out (M, 16): one tile times M vectors
template <int M, int FORMAT>
inline void tile_product(const Matrix& w, int64_t tile, const Vectors& x, int64_t first, float* out) {
    constexpr int BYTES = FORMAT == INT8 ? 512 : 256;
    const int64_t groups = w.groups();
    const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * groups * BYTES;
    const half_bits* scales = w.scales + tile * groups * TILE;
    Totals totals[M];
    for (int m = 0; m < M; m++) begin_totals(totals[m]);
    for (int64_t g = 0; g < groups; g++, data += BYTES) {
        Sums sums[M];
        const int8_t* whole[M];
        for (int m = 0; m < M; m++) {
            const int64_t at = (first + m) * groups + g;
            begin_sums(sums[m], -offset<FORMAT>() * x.sums[at]);
            whole[m] = x.whole + at * GROUP;
        }
        auto quad = [&](int m, int j) {
            int32_t four;
            std::memcpy(&four, whole[m] + j * 4, 4);
            return four;
        };
        for (int j = 0; j < BYTES / 64; j++) {
            const Bytes bytes = bytes_at(data + j * 64);
            ask_for(data + j * 64 + AHEAD);
            for (int m = 0; m < M; m++) {
                if (FORMAT == INT8) {
                    add_products<INT8>(sums[m], bytes, quad(m, j));
                } else {
                    add_products<INT4>(sums[m], lower(bytes), quad(m, j));
                    add_products<INT4>(sums[m], upper(bytes), quad(m, j + 4));
                }
            }
        }
        for (int m = 0; m < M; m++) add_scaled(totals[m], sums[m], scales + g * TILE, x.scales[(first + m) * groups + g]);
    }
    for (int m = 0; m < M; m++) keep(out + m * TILE, totals[m]);
}
