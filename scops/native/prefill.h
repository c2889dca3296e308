// Many new tokens per row against the keys and values that a cache keeps in pages, bfloat16, for processors that multiply it.
//
// Keys and values are first laid out in pairs, as the instruction adds products: keys (tiles of 16, pairs of numbers, 16, 2),
// values (pairs of keys, width, 2). Then each unit of work takes 16 queries of one head through chunks of 256 keys with a
// running maximum (arXiv 2112.05682, 2205.14135).
#pragma once
#include "attention.h"

#if defined(__AVX512BF16__)
#define HAS_PREFILL 1

constexpr int QUERIES = 16;
constexpr float NOTHING = -3e38f;

inline __m512 exponentials(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 y = _mm512_set1_ps(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(c));
    y = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(y, r), r, r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, n);
}

// Two float vectors in order -> 32 bfloat16.
inline __m512i briefed(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// One tile of 16 keys and their values from the pages into pairs; what lies behind the last key is zero.
inline void lay_out(const Pages& p, int64_t row, int64_t head, int64_t tile, int64_t keys, uint32_t* key_pairs,
                    half_bits* value_pairs) {
    for (int64_t i = 0; i < 16; i++) {
        const int64_t token = tile * 16 + i;
        half_bits* values = value_pairs + (tile * 8 + i / 2) * p.width * 2 + i % 2;
        uint32_t* pairs = key_pairs + tile * p.width / 2 * 16 + i;
        if (token >= keys) {
            for (int64_t h = 0; h < p.width / 2; h++) pairs[h * 16] = 0;
            for (int64_t h = 0; h < p.width; h++) values[h * 2] = 0;
            continue;
        }
        const int64_t at = p.at(row, head, token);
        const half_bits* value = static_cast<const half_bits*>(p.values) + at;
        const half_bits* key = static_cast<const half_bits*>(p.keys) + at;
        for (int64_t h = 0; h < p.width / 2; h++) {
            uint32_t pair;
            std::memcpy(&pair, key + h * 2, 4);
            pairs[h * 16] = pair;
        }
        for (int64_t h = 0; h < p.width; h++) values[h * 2] = value[h];
    }
}

// scores (16, CHUNK) of 16 queries with two tiles of keys
inline void score_tiles(const uint32_t* queries, int64_t pairs, const uint32_t* keys, float scale, float* scores) {
    for (int q = 0; q < QUERIES; q += 8) {
        __m512 sum[8][2];
        for (int i = 0; i < 8; i++) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
        for (int64_t h = 0; h < pairs; h++) {
            __m512bh a = (__m512bh)_mm512_loadu_si512(keys + h * 16);
            __m512bh b = (__m512bh)_mm512_loadu_si512(keys + (pairs + h) * 16);
            for (int i = 0; i < 8; i++) {
                __m512bh query = (__m512bh)_mm512_set1_epi32(queries[(q + i) * pairs + h]);
                sum[i][0] = _mm512_dpbf16_ps(sum[i][0], a, query);
                sum[i][1] = _mm512_dpbf16_ps(sum[i][1], b, query);
            }
        }
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 2; j++)
                _mm512_storeu_ps(scores + (q + i) * CHUNK + j * 16, _mm512_mul_ps(sum[i][j], _mm512_set1_ps(scale)));
    }
}

// out (some, HT * 16) = out * fade + weights (some, keys) values
template <int HT, int SOME>
inline void weigh_pairs(const half_bits* weights, const half_bits* values, int64_t keys, const float* fade, float* out) {
    __m512 sum[SOME][HT];
    for (int q = 0; q < SOME; q++)
        for (int h = 0; h < HT; h++)
            sum[q][h] = _mm512_mul_ps(_mm512_loadu_ps(out + (q * HT + h) * 16), _mm512_set1_ps(fade[q]));
    for (int64_t k = 0; k < keys; k += 2, values += HT * 32) {
        __m512bh value[HT];
        for (int h = 0; h < HT; h++) value[h] = (__m512bh)_mm512_loadu_si512(values + h * 32);
        for (int q = 0; q < SOME; q++) {
            uint32_t pair;
            std::memcpy(&pair, weights + q * CHUNK + k, 4);
            __m512bh weight = (__m512bh)_mm512_set1_epi32(pair);
            for (int h = 0; h < HT; h++) sum[q][h] = _mm512_dpbf16_ps(sum[q][h], value[h], weight);
        }
    }
    for (int q = 0; q < SOME; q++)
        for (int h = 0; h < HT; h++) _mm512_storeu_ps(out + (q * HT + h) * 16, sum[q][h]);
}

// Scores of one query -> weights in bfloat16, the running maximum and total moved on; returns what earlier sums fade by.
inline float soften(float* scores, half_bits* weights, int64_t keys, float& most, float& total) {
    __m512 high = _mm512_set1_ps(most);
    for (int64_t k = 0; k < keys; k += 16) high = _mm512_max_ps(high, _mm512_loadu_ps(scores + k));
    const float now = _mm512_reduce_max_ps(high);
    const float fade = total > 0 ? exponential(most - now) : 0;
    __m512 sum = _mm512_setzero_ps(), top = _mm512_set1_ps(now), nothing = _mm512_set1_ps(NOTHING);
    for (int64_t k = 0; k < keys; k += 32) {
        __m512 part[2];
        for (int j = 0; j < 2; j++) {
            __m512 score = _mm512_loadu_ps(scores + k + j * 16);
            __mmask16 seen = _mm512_cmp_ps_mask(score, nothing, _CMP_GT_OQ);
            part[j] = _mm512_maskz_mov_ps(seen, exponentials(_mm512_sub_ps(score, top)));
            sum = _mm512_add_ps(sum, part[j]);
        }
        _mm512_storeu_si512(weights + k, briefed(part[0], part[1]));
    }
    most = now;
    total = total * fade + _mm512_reduce_add_ps(sum);
    return fade;
}

// 16 queries (or fewer) of one head, the first of them token `first` of the new ones -> out (16, HT * 16), divided
template <int HT>
inline void attend_queries(const Pages& p, int64_t row, int64_t first, int64_t count, const uint32_t* queries,
                           const uint32_t* key_pairs, const half_bits* value_pairs, float scale, float* out) {
    constexpr int PAIRS = HT * 8, SOME = HT <= 5 ? 4 : 2;
    alignas(64) float scores[QUERIES * CHUNK];
    alignas(64) half_bits weights[QUERIES * CHUNK];
    float most[QUERIES], total[QUERIES] = {}, fade[QUERIES];
    std::fill(most, most + QUERIES, NOTHING);
    std::fill(out, out + QUERIES * HT * 16, 0.0f);
    const int64_t before = p.lengths[row] + first, end = before + count;  // the last query sees tokens below `end`
    const int64_t begin = p.window ? std::max<int64_t>(0, before + 1 - p.window) / 32 * 32 : 0;
    for (int64_t start = begin; start < end; start += CHUNK) {
        const int64_t keys = std::min<int64_t>((end - start + 31) / 32 * 32, CHUNK);
        for (int64_t k = 0; k < keys; k += 32)
            score_tiles(queries, PAIRS, key_pairs + (start + k) / 16 * PAIRS * 16, scale, scores + k);
        for (int q = 0; q < QUERIES; q++) {
            const int64_t last = before + std::min<int64_t>(q, count - 1);
            for (int64_t k = std::max<int64_t>(0, last + 1 - start); k < keys; k++) scores[q * CHUNK + k] = NOTHING;
            if (p.window)
                for (int64_t k = 0; k < std::min<int64_t>(keys, last + 1 - p.window - start); k++) scores[q * CHUNK + k] = NOTHING;
            fade[q] = soften(scores + q * CHUNK, weights + q * CHUNK, keys, most[q], total[q]);
        }
        for (int q = 0; q < QUERIES; q += SOME)
            weigh_pairs<HT, SOME>(weights + q * CHUNK, value_pairs + start / 2 * HT * 32, keys, fade + q, out + q * HT * 16);
    }
    for (int q = 0; q < QUERIES; q++)
        for (int h = 0; h < HT * 16; h++) out[q * HT * 16 + h] /= total[q];
}

inline void attend_queries(const Pages& p, int64_t row, int64_t first, int64_t count, const uint32_t* queries,
                           const uint32_t* keys, const half_bits* values, float scale, float* out) {
    switch (p.width / 16) {
        case 2: return attend_queries<2>(p, row, first, count, queries, keys, values, scale, out);
        case 4: return attend_queries<4>(p, row, first, count, queries, keys, values, scale, out);
        case 5: return attend_queries<5>(p, row, first, count, queries, keys, values, scale, out);
        case 6: return attend_queries<6>(p, row, first, count, queries, keys, values, scale, out);
        case 8: return attend_queries<8>(p, row, first, count, queries, keys, values, scale, out);
    }
}

inline bool prefill_takes(int64_t width) {
    return width == 32 || width == 64 || width == 80 || width == 96 || width == 128;
}
#else
#define HAS_PREFILL 0
#endif
