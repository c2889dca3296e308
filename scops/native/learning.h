// What stands between products where something learns, forward and back, each in one pass over memory. Arithmetic is in float32.
#pragma once
#include "attention.h"

inline float number(float x) { return x; }
inline float number(half_bits x) { return from_bfloat16(x); }
inline void put(float& y, float x) { y = x; }
inline void put(half_bits& y, float x) { y = to_bfloat16(x); }

inline float sigmoid(float x) {
    const float e = exponential(-std::fabs(x));
    return (x < 0 ? e : 1) / (1 + e);
}

// y (rows, width) = x weight / sqrt(mean of x^2 + eps); inverse (rows) is what x was multiplied by
template <typename Kept>
void rms_norm(const Kept* x, const float* weight, Kept* y, float* inverse, int64_t rows, int64_t width, float eps, int64_t threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const Kept* from = x + row * width;
        Kept* to = y + row * width;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; i++) sum += number(from[i]) * number(from[i]);
        const float factor = inverse[row] = 1 / std::sqrt(sum / float(width) + eps);
#pragma omp simd
        for (int64_t i = 0; i < width; i++) put(to[i], number(from[i]) * factor * weight[i]);
    }
}

// dx (rows, width), and dweight (threads, width) unless it is null: the sum of each thread's rows
template <typename Kept>
void rms_norm_back(const Kept* x, const float* weight, const float* inverse, const Kept* dy, Kept* dx, float* dweight, int64_t rows,
                   int64_t width, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        float* mine = dweight ? dweight + omp_get_thread_num() * width : nullptr;
#pragma omp for
        for (int64_t row = 0; row < rows; row++) {
            const Kept *from = x + row * width, *back = dy + row * width;
            Kept* to = dx + row * width;
            const float factor = inverse[row];
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < width; i++) sum += number(back[i]) * weight[i] * number(from[i]);
            const float along = sum * factor * factor / float(width);
#pragma omp simd
            for (int64_t i = 0; i < width; i++) put(to[i], factor * (number(back[i]) * weight[i] - number(from[i]) * along));
            if (mine)
                for (int64_t i = 0; i < width; i++) mine[i] += number(back[i]) * number(from[i]) * factor;
        }
    }
}

// y (count) = silu(gate) up
template <typename Kept>
void swiglu(const Kept* gate, const Kept* up, Kept* y, int64_t count, int64_t threads) {
#pragma omp parallel for simd num_threads(threads)
    for (int64_t i = 0; i < count; i++) {
        const float g = number(gate[i]);
        put(y[i], g * sigmoid(g) * number(up[i]));
    }
}

template <typename Kept>
void swiglu_back(const Kept* gate, const Kept* up, const Kept* dy, Kept* dgate, Kept* dup, int64_t count, int64_t threads) {
#pragma omp parallel for simd num_threads(threads)
    for (int64_t i = 0; i < count; i++) {
        const float g = number(gate[i]), s = sigmoid(g), d = number(dy[i]);
        put(dgate[i], d * number(up[i]) * s * (1 + g * (1 - s)));
        put(dup[i], d * g * s);
    }
}

// y (rows, tokens, heads, width) = x with the pairs (i, i + turned / 2) turned by their angles, or back by them with sign -1;
// cosine, sine (rows or 1, tokens, turned)
template <typename Kept>
void turn_pairs(const Kept* x, const Kept* cosine, const Kept* sine, Kept* y, int64_t rows, int64_t of_each_row, int64_t tokens,
                int64_t heads, int64_t width, int64_t turned, float sign, int64_t threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t token = 0; token < rows * tokens; token++) {
        const int64_t angle = (of_each_row ? token : token % tokens) * turned, half = turned / 2;
        const Kept *cos = cosine + angle, *sin = sine + angle;
        for (int64_t at = token * heads * width; at < (token + 1) * heads * width; at += width) {
            const Kept* from = x + at;
            Kept* to = y + at;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                const float a = number(from[i]), b = number(from[i + half]);
                put(to[i], a * number(cos[i]) - sign * b * number(sin[i]));
                put(to[i + half], b * number(cos[i + half]) + sign * a * number(sin[i + half]));
            }
            std::copy(from + turned, from + width, to + turned);
        }
    }
}

extern "C" {

void turn_pairs(const void* x, const void* cosine, const void* sine, void* y, int64_t rows, int64_t of_each_row, int64_t tokens,
                int64_t heads, int64_t width, int64_t turned, float sign, int64_t bfloat16, int64_t threads) {
    if (bfloat16)
        turn_pairs(static_cast<const half_bits*>(x), static_cast<const half_bits*>(cosine), static_cast<const half_bits*>(sine),
                   static_cast<half_bits*>(y), rows, of_each_row, tokens, heads, width, turned, sign, threads);
    else
        turn_pairs(static_cast<const float*>(x), static_cast<const float*>(cosine), static_cast<const float*>(sine),
                   static_cast<float*>(y), rows, of_each_row, tokens, heads, width, turned, sign, threads);
}

void rms_norm(const void* x, const float* weight, void* y, float* inverse, int64_t rows, int64_t width, float eps, int64_t bfloat16,
              int64_t threads) {
    if (bfloat16)
        rms_norm(static_cast<const half_bits*>(x), weight, static_cast<half_bits*>(y), inverse, rows, width, eps, threads);
    else
        rms_norm(static_cast<const float*>(x), weight, static_cast<float*>(y), inverse, rows, width, eps, threads);
}

void rms_norm_back(const void* x, const float* weight, const float* inverse, const void* dy, void* dx, float* dweight, int64_t rows,
                   int64_t width, int64_t bfloat16, int64_t threads) {
    if (bfloat16)
        rms_norm_back(static_cast<const half_bits*>(x), weight, inverse, static_cast<const half_bits*>(dy), static_cast<half_bits*>(dx),
                      dweight, rows, width, threads);
    else
        rms_norm_back(static_cast<const float*>(x), weight, inverse, static_cast<const float*>(dy), static_cast<float*>(dx), dweight,
                      rows, width, threads);
}

void swiglu(const void* gate, const void* up, void* y, int64_t count, int64_t bfloat16, int64_t threads) {
    if (bfloat16)
        swiglu(static_cast<const half_bits*>(gate), static_cast<const half_bits*>(up), static_cast<half_bits*>(y), count, threads);
    else
        swiglu(static_cast<const float*>(gate), static_cast<const float*>(up), static_cast<float*>(y), count, threads);
}

void swiglu_back(const void* gate, const void* up, const void* dy, void* dgate, void* dup, int64_t count, int64_t bfloat16,
                 int64_t threads) {
    if (bfloat16)
        swiglu_back(static_cast<const half_bits*>(gate), static_cast<const half_bits*>(up), static_cast<const half_bits*>(dy),
                    static_cast<half_bits*>(dgate), static_cast<half_bits*>(dup), count, threads);
    else
        swiglu_back(static_cast<const float*>(gate), static_cast<const float*>(up), static_cast<const float*>(dy),
                    static_cast<float*>(dgate), static_cast<float*>(dup), count, threads);
}
}
