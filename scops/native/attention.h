// One new token per row against the keys and values that a cache keeps in pages.
#pragma once
#include "matrix.h"

constexpr int CHUNK = 256;  // keys that one unit of work looks at

struct Pages {
    int64_t page, heads, width, bfloat16;  // tokens per page, key heads, head width
    void* keys;                            // (pages, heads, page, width)
    void* values;
    const int32_t* table;     // (rows, longest): each row's pages in order
    const int64_t* lengths;   // (rows): tokens kept before the new one
    int64_t longest, window;  // window 0: a token sees all that came before
    int64_t at(int64_t row, int64_t head, int64_t token) const {
        return ((int64_t(table[row * longest + token / page]) * heads + head) * page + token % page) * width;
    }
    int64_t from(int64_t row) const { return window ? std::max<int64_t>(0, lengths[row] + 1 - window) : 0; }
    int64_t chunks(int64_t row) const { return (lengths[row] + 1 - from(row) + CHUNK - 1) / CHUNK; }
};

// exp(x) for x <= 0, to seven digits: 2^n times a polynomial, so that a loop over it becomes vector instructions.
inline float exponential(float x) {
    x = std::max(x, -87.0f);
    float n = std::nearbyintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return y * power;
}

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

// scores (count) of one bfloat16 query with bfloat16 keys, width W * 32
template <int W>
inline void brief_scores(const half_bits* query, const half_bits* key, int64_t count, float scale, float* scores) {
    __m512bh asked[W];
    for (int h = 0; h < W; h++) asked[h] = (__m512bh)_mm512_loadu_si512(query + h * 32);
    auto dot = [&](const half_bits* at) {
        __m512 sum = _mm512_setzero_ps();
        for (int h = 0; h < W; h++) sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(at + h * 32), asked[h]);
        return sum;
    };
    int64_t k = 0;
    for (; k + 16 <= count; k += 16) {
        __m512 sums[16];
        for (int i = 0; i < 16; i++) sums[i] = dot(key + (k + i) * W * 32);
        _mm512_storeu_ps(scores + k, _mm512_mul_ps(sums_of(sums), _mm512_set1_ps(scale)));
    }
    for (; k < count; k++) scores[k] = _mm512_reduce_add_ps(dot(key + k * W * 32)) * scale;
}

// out (W * 32) += weights (count), rounded to bfloat16, times bfloat16 values; two values at a time
template <int W>
inline void brief_weigh(const float* weights, const half_bits* value, int64_t count, float* out) {
    __m512 sum[W][2];
    for (int h = 0; h < W; h++) sum[h][0] = sum[h][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < count; k += 2, value += W * 64) {
        const bool pair = k + 1 < count;
        const uint32_t both = to_bfloat16(weights[k]) | (pair ? uint32_t(to_bfloat16(weights[k + 1])) << 16 : 0);
        const __m512bh weight = (__m512bh)_mm512_set1_epi32(both);
        for (int h = 0; h < W; h++) {
            __m512i a = _mm512_loadu_si512(value + h * 32);
            __m512i b = pair ? _mm512_loadu_si512(value + (W + h) * 32) : _mm512_setzero_si512();
            sum[h][0] = _mm512_dpbf16_ps(sum[h][0], (__m512bh)_mm512_unpacklo_epi16(a, b), weight);
            sum[h][1] = _mm512_dpbf16_ps(sum[h][1], (__m512bh)_mm512_unpackhi_epi16(a, b), weight);
        }
    }
    for (int h = 0; h < W; h++)
        for (int half = 0; half < 2; half++) {
            float four[16];  // of each 8 columns the lower or the upper 4
            _mm512_storeu_ps(four, sum[h][half]);
            for (int i = 0; i < 16; i++) out[h * 32 + i / 4 * 8 + half * 4 + i % 4] += four[i];
        }
}
#endif

// scores (count) of one query with `count` keys that lie one behind the other
inline void scores_of(const float* query, const half_bits* query16, const void* keys, int64_t at, int64_t count,
                      int64_t width, bool bfloat16, float scale, float* scores) {
#if defined(__AVX512BF16__)
    const half_bits* key = static_cast<const half_bits*>(keys) + at;
    if (bfloat16 && width == 32) return brief_scores<1>(query16, key, count, scale, scores);
    if (bfloat16 && width == 64) return brief_scores<2>(query16, key, count, scale, scores);
    if (bfloat16 && width == 96) return brief_scores<3>(query16, key, count, scale, scores);
    if (bfloat16 && width == 128) return brief_scores<4>(query16, key, count, scale, scores);
#endif
    for (int64_t k = 0; k < count; k++) {
        float sum = 0;
        if (bfloat16) {
            const half_bits* key = static_cast<const half_bits*>(keys) + at + k * width;
#pragma omp simd reduction(+ : sum)
            for (int64_t h = 0; h < width; h++) sum += query[h] * from_bfloat16(key[h]);
        } else {
            const float* key = static_cast<const float*>(keys) + at + k * width;
#pragma omp simd reduction(+ : sum)
            for (int64_t h = 0; h < width; h++) sum += query[h] * key[h];
        }
        scores[k] = sum * scale;
    }
}

// out (width) += weights (count) times values that lie one behind the other
template <typename Value, typename Read>
inline void weigh_plainly(const float* weights, const Value* values, int64_t count, int64_t width, Read read, float* out) {
    int64_t k = 0;
    for (; k + 4 <= count; k += 4, values += 4 * width) {
        const float a = weights[k], b = weights[k + 1], c = weights[k + 2], d = weights[k + 3];
#pragma omp simd
        for (int64_t h = 0; h < width; h++)
            out[h] += a * read(values[h]) + b * read(values[width + h]) + c * read(values[2 * width + h]) +
                      d * read(values[3 * width + h]);
    }
    for (; k < count; k++, values += width) {
        const float a = weights[k];
#pragma omp simd
        for (int64_t h = 0; h < width; h++) out[h] += a * read(values[h]);
    }
}

inline void weigh(const float* weights, const void* values, int64_t at, int64_t count, int64_t width, bool bfloat16, float* out) {
    const half_bits* brief = static_cast<const half_bits*>(values) + at;
#if defined(__AVX512BF16__)
    if (bfloat16 && width == 32) return brief_weigh<1>(weights, brief, count, out);
    if (bfloat16 && width == 64) return brief_weigh<2>(weights, brief, count, out);
    if (bfloat16 && width == 96) return brief_weigh<3>(weights, brief, count, out);
    if (bfloat16 && width == 128) return brief_weigh<4>(weights, brief, count, out);
#endif
    if (bfloat16)
        weigh_plainly(weights, brief, count, width, from_bfloat16, out);
    else
        weigh_plainly(weights, static_cast<const float*>(values) + at, count, width, [](float x) { return x; }, out);
}

// One row's query heads of one key head against one chunk of its tokens.
// queries (heads, width) -> out (heads, width) not yet divided, most (heads), total (heads)
// slopes (heads) times the distance are added to the scores; or null
inline void attend_chunk(const Pages& p, int64_t row, int64_t head, int64_t chunk, const float* queries,
                         const half_bits* queries16, int64_t group, float scale, const float* slopes, float* out, float* most,
                         float* total) {
    const int64_t begin = p.from(row) + chunk * CHUNK, end = std::min<int64_t>(begin + CHUNK, p.lengths[row] + 1);
    float scores[CHUNK];
    for (int64_t q = 0; q < group; q++) {
        for (int64_t t = begin; t < end;) {
            int64_t next = std::min<int64_t>(end, (t / p.page + 1) * p.page);
            scores_of(queries + q * p.width, queries16 + q * p.width, p.keys, p.at(row, head, t), next - t, p.width,
                      p.bfloat16, scale, scores + t - begin);
            t = next;
        }
        if (slopes)
            for (int64_t t = begin; t < end; t++) scores[t - begin] += slopes[q] * float(t - p.lengths[row]);
        float high = scores[0], sum = 0;
        for (int64_t i = 1; i < end - begin; i++) high = std::max(high, scores[i]);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < end - begin; i++) sum += scores[i] = exponential(scores[i] - high);
        most[q] = high, total[q] = sum;
        float* found = out + q * p.width;
        std::fill(found, found + p.width, 0.0f);
        for (int64_t t = begin; t < end;) {
            int64_t next = std::min<int64_t>(end, (t / p.page + 1) * p.page);
            weigh(scores + t - begin, p.values, p.at(row, head, t), next - t, p.width, p.bfloat16, found);
            t = next;
        }
    }
}
