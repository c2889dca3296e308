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

// scores (count) of one query with `count` keys that lie one behind the other
inline void scores_of(const float* query, const half_bits* query16, const void* keys, int64_t at, int64_t count,
                      int64_t width, bool bfloat16, float scale, float* scores) {
#if defined(__AVX512BF16__)
    if (bfloat16 && width % 32 == 0) {
        const half_bits* key = static_cast<const half_bits*>(keys) + at;
        for (int64_t k = 0; k < count; k++, key += width) {
            __m512 sum = _mm512_setzero_ps();
            for (int64_t h = 0; h < width; h += 32)
                sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(key + h), (__m512bh)_mm512_loadu_si512(query16 + h));
            scores[k] = _mm512_reduce_add_ps(sum) * scale;
        }
        return;
    }
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

template <typename Value, typename Read>
inline void weigh(const float* weights, const Value* values, int64_t count, int64_t width, Read read, float* out) {
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

// One row's query heads of one key head against one chunk of its tokens.
// queries (heads, width) -> out (heads, width) not yet divided, most (heads), total (heads)
inline void attend_chunk(const Pages& p, int64_t row, int64_t head, int64_t chunk, const float* queries,
                         const half_bits* queries16, int64_t group, float scale, float* out, float* most, float* total) {
    const int64_t begin = p.from(row) + chunk * CHUNK, end = std::min<int64_t>(begin + CHUNK, p.lengths[row] + 1);
    float scores[CHUNK];
    for (int64_t q = 0; q < group; q++) {
        for (int64_t t = begin; t < end;) {
            int64_t next = std::min<int64_t>(end, (t / p.page + 1) * p.page);
            scores_of(queries + q * p.width, queries16 + q * p.width, p.keys, p.at(row, head, t), next - t, p.width,
                      p.bfloat16, scale, scores + t - begin);
            t = next;
        }
        float high = scores[0], sum = 0;
        for (int64_t i = 1; i < end - begin; i++) high = std::max(high, scores[i]);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < end - begin; i++) sum += scores[i] = exponential(scores[i] - high);
        most[q] = high, total[q] = sum;
        float* found = out + q * p.width;
        std::fill(found, found + p.width, 0.0f);
        for (int64_t t = begin; t < end;) {
            int64_t next = std::min<int64_t>(end, (t / p.page + 1) * p.page), at = p.at(row, head, t);
            if (p.bfloat16)
                weigh(scores + t - begin, static_cast<const half_bits*>(p.values) + at, next - t, p.width, from_bfloat16, found);
            else
                weigh(scores + t - begin, static_cast<const float*>(p.values) + at, next - t, p.width, [](float x) { return x; }, found);
            t = next;
        }
    }
}
