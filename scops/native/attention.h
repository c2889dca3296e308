// One new token per row against the keys and values that a cache keeps in pages.
#pragma once
#include "products.h"

constexpr int CHUNK = 256, SHORT = 64;  // keys that one unit of work looks at, and of a row that has no more than CHUNK

// Tokens of a row, of which `end` is the first that does not belong to it.
struct Span {
    int64_t begin, end;
};

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
    int64_t seen(int64_t row) const { return lengths[row] + 1 - from(row); }
    int64_t chunk(int64_t row) const { return seen(row) <= CHUNK ? SHORT : CHUNK; }  // no matter who else is in the batch
    int64_t chunks(int64_t row) const { return (seen(row) + chunk(row) - 1) / chunk(row); }
    Span span(int64_t row, int64_t at) const {  // of a chunk
        const int64_t begin = from(row) + at * chunk(row);
        return {begin, std::min(begin + chunk(row), lengths[row] + 1)};
    }
    int64_t page_end(int64_t token, int64_t end) const { return std::min(end, (token / page + 1) * page); }
    int64_t from(int64_t row) const { return window ? std::max<int64_t>(0, lengths[row] + 1 - window) : 0; }
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

// scores (of the span) += slope times how far each token lies behind the new one
inline void add_distances(float* scores, const Span& span, int64_t now, float slope) {
    for (int64_t t = span.begin; t < span.end; t++) scores[t - span.begin] += slope * float(t - now);
}

// Scores of one query (count) -> weights, not yet divided by their total.
inline void soften_chunk(float* scores, int64_t count, float& most, float& total) {
    float high = scores[0], sum = 0;
#pragma omp simd reduction(max : high)
    for (int64_t i = 0; i < count; i++) high = std::max(high, scores[i]);
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++) sum += scores[i] = exponential(scores[i] - high);
    most = high, total = sum;
}

#if defined(__AVX512BF16__)
// scores (G, CHUNK) of G queries with `count` keys that lie one behind the other, all bfloat16 and W * 32 wide. What is read
// next is asked for meanwhile: keys further on, and the same tokens' values.
template <int W, int G>
inline void brief_scores(const half_bits* queries, const half_bits* key, const half_bits* value, int64_t count, float scale,
                         float* scores) {
    __m512bh asked[G][W];
    for (int q = 0; q < G; q++)
        for (int h = 0; h < W; h++) asked[q][h] = (__m512bh)_mm512_loadu_si512(queries + (q * W + h) * 32);
    for (int64_t k = 0; k < count; k += 16) {
        const int64_t some = std::min<int64_t>(count - k, 16);
        __m512 sums[G][16];
        for (int64_t i = 0; i < 16; i++) {
            const int64_t at = (k + std::min(i, some - 1)) * W * 32;
            __m512bh part[W];
            for (int h = 0; h < W; h++) {
                part[h] = (__m512bh)_mm512_loadu_si512(key + at + h * 32);
                ask_for(reinterpret_cast<const char*>(key + at + h * 32) + STREAM);
                ask_for(value + at + h * 32);
            }
            for (int q = 0; q < G; q++) {
                sums[q][i] = _mm512_setzero_ps();
                for (int h = 0; h < W; h++) sums[q][i] = _mm512_dpbf16_ps(sums[q][i], part[h], asked[q][h]);
            }
        }
        const __mmask16 real = (1u << some) - 1;
        for (int q = 0; q < G; q++)
            _mm512_mask_storeu_ps(scores + q * CHUNK + k, real, _mm512_mul_ps(sums_of(sums[q]), _mm512_set1_ps(scale)));
    }
}

// out (G, W * 32) += weights (G, CHUNK) times `count` values that lie one behind the other, two of them at a time
template <int W, int G>
inline void brief_weigh(const half_bits* weights, const half_bits* value, int64_t count, float* out) {
    __m512 sum[G][W][2];
    for (int q = 0; q < G; q++)
        for (int h = 0; h < W; h++) sum[q][h][0] = sum[q][h][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < count; k += 2) {
        const half_bits *first = value + k * W * 32, *second = k + 1 < count ? first + W * 32 : first;
        __m512bh low[W], high[W];
        for (int h = 0; h < W; h++) {
            __m512i a = _mm512_loadu_si512(first + h * 32), b = _mm512_loadu_si512(second + h * 32);
            low[h] = (__m512bh)_mm512_unpacklo_epi16(a, b), high[h] = (__m512bh)_mm512_unpackhi_epi16(a, b);
        }
        for (int q = 0; q < G; q++) {
            const half_bits* at = weights + q * CHUNK + k;
            const __m512bh weight = (__m512bh)_mm512_set1_epi32(at[0] | (k + 1 < count ? uint32_t(at[1]) << 16 : 0));
            for (int h = 0; h < W; h++) {
                sum[q][h][0] = _mm512_dpbf16_ps(sum[q][h][0], low[h], weight);
                sum[q][h][1] = _mm512_dpbf16_ps(sum[q][h][1], high[h], weight);
            }
        }
    }
    const __m512i lower = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
    for (int q = 0; q < G; q++)
        for (int h = 0; h < W; h++, out += 32) {  // of each 8 columns one sum holds the lower and one the upper 4
            const __m512 a = _mm512_permutex2var_ps(sum[q][h][0], lower, sum[q][h][1]);
            const __m512 b = _mm512_permutex2var_ps(sum[q][h][0], upper, sum[q][h][1]);
            _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), a));
            _mm512_storeu_ps(out + 16, _mm512_add_ps(_mm512_loadu_ps(out + 16), b));
        }
}

// attend_chunk for G heads of bfloat16, W * 32 wide
template <int W, int G>
inline void attend_briefly(const Pages& p, int64_t row, int64_t head, Span span, const half_bits* queries, float scale,
                           const float* slopes, float* out, float* most, float* total) {
    const half_bits *keys = static_cast<const half_bits*>(p.keys), *values = static_cast<const half_bits*>(p.values);
    alignas(64) float scores[G * CHUNK];
    alignas(64) half_bits weights[G * CHUNK];
    for (int64_t t = span.begin, next; t < span.end; t = next) {
        next = p.page_end(t, span.end);
        const int64_t at = p.at(row, head, t);
        brief_scores<W, G>(queries, keys + at, values + at, next - t, scale, scores + t - span.begin);
    }
    for (int q = 0; q < G; q++) {
        float* mine = scores + q * CHUNK;
        if (slopes) add_distances(mine, span, p.lengths[row], slopes[q]);
        soften_chunk(mine, span.end - span.begin, most[q], total[q]);
        for (int64_t i = 0; i < span.end - span.begin; i += 16)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + q * CHUNK + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(mine + i)));
    }
    std::fill(out, out + G * W * 32, 0.0f);
    for (int64_t t = span.begin, next; t < span.end; t = next) {
        next = p.page_end(t, span.end);
        brief_weigh<W, G>(weights + t - span.begin, values + p.at(row, head, t), next - t, out);
    }
}

// The same for as many of `group` heads as fit into registers; returns how many these were, 0 for other widths.
inline int64_t attend_some_briefly(const Pages& p, int64_t row, int64_t head, Span span, const half_bits* queries,
                                   int64_t group, float scale, const float* slopes, float* out, float* most, float* total) {
#define BRIEFLY(W, G) \
    if (p.width == W * 32 && group >= G) return attend_briefly<W, G>(p, row, head, span, queries, scale, slopes, out, most, total), G;
    BRIEFLY(1, 4) BRIEFLY(1, 3) BRIEFLY(1, 2) BRIEFLY(1, 1)
    BRIEFLY(2, 4) BRIEFLY(2, 3) BRIEFLY(2, 2) BRIEFLY(2, 1)
    BRIEFLY(3, 2) BRIEFLY(3, 1)
    BRIEFLY(4, 2) BRIEFLY(4, 1)
#undef BRIEFLY
    return 0;
}
#endif

// scores (count) of one query with `count` keys that lie one behind the other
template <typename Value, typename Read>
inline void scores_plainly(const float* query, const Value* key, int64_t count, int64_t width, Read read, float scale, float* scores) {
    for (int64_t k = 0; k < count; k++, key += width) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t h = 0; h < width; h++) sum += query[h] * read(key[h]);
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

// attend_chunk for one head, values as they are kept
template <typename Value, typename Read>
inline void attend_plainly(const Pages& p, int64_t row, int64_t head, Span span, const float* query, Read read, float scale,
                           const float* slope, float* out, float* most, float* total) {
    const Value *keys = static_cast<const Value*>(p.keys), *values = static_cast<const Value*>(p.values);
    float scores[CHUNK];
    for (int64_t t = span.begin, next; t < span.end; t = next) {
        next = p.page_end(t, span.end);
        scores_plainly(query, keys + p.at(row, head, t), next - t, p.width, read, scale, scores + t - span.begin);
    }
    if (slope) add_distances(scores, span, p.lengths[row], *slope);
    soften_chunk(scores, span.end - span.begin, *most, *total);
    std::fill(out, out + p.width, 0.0f);
    for (int64_t t = span.begin, next; t < span.end; t = next) {
        next = p.page_end(t, span.end);
        weigh_plainly(scores + t - span.begin, values + p.at(row, head, t), next - t, p.width, read, out);
    }
}

// One row's query heads of one key head against one chunk of its tokens.
// queries (heads, width) -> out (heads, width) not yet divided, most (heads), total (heads)
// slopes (heads) times the distance are added to the scores; or null
inline void attend_chunk(const Pages& p, int64_t row, int64_t head, Span span, const float* queries,
                         const half_bits* queries16, int64_t group, float scale, const float* slopes, float* out, float* most,
                         float* total) {
    for (int64_t q = 0, some; q < group; q += some) {
        const float *query = queries + q * p.width, *slope = slopes ? slopes + q : nullptr;
        some = 0;
#if defined(__AVX512BF16__)
        if (p.bfloat16)
            some = attend_some_briefly(p, row, head, span, queries16 + q * p.width, group - q, scale, slope, out + q * p.width,
                                       most + q, total + q);
#endif
        if (some) continue;
        some = 1;
        if (p.bfloat16)
            attend_plainly<half_bits>(p, row, head, span, query, from_bfloat16, scale, slope, out + q * p.width, most + q, total + q);
        else
            attend_plainly<float>(p, row, head, span, query, [](float x) { return x; }, scale, slope, out + q * p.width, most + q, total + q);
    }
}
