// Matrices times a few vectors, tile by tile.
#pragma once
#include "tiles.h"

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
                ask_for(reinterpret_cast<const char*>(rows[i] + c) + SOON);
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
