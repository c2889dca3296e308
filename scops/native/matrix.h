// Matrices in four formats of weights, and vectors as their products want them. What is read is laid out so that memory is read
// once, in order.
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
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef uint16_t half_bits;

enum Format { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };
constexpr int AHEAD = 8192, STREAM = 4096;  // bytes that are asked for before they are needed
constexpr int TILE = 16, GROUP = 32, TILES = GROUP / TILE;  // rows per tile, columns per scale, tiles that make a group
constexpr int MOST = 192;                                   // vectors at a time

inline void ask_for(const void* at) {  // its line of memory will be needed soon; any address is allowed
#if defined(__GNUC__)
    __builtin_prefetch(at, 0, 3);
#endif
}

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

// A thread's share of `count` things.
inline void share(int64_t count, int64_t& begin, int64_t& end) {
    int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
    begin = count * me / threads;
    end = count * (me + 1) / threads;
}
