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

// y (turned) = x with the pairs (i, i + turned / 2) turned by their angles, or back by them with sign -1; y may be x
template <typename Kept>
inline void turn_head(const Kept* x, const Kept* cosine, const Kept* sine, Kept* y, int64_t turned, float sign) {
    const int64_t half = turned / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const float a = number(x[i]), b = number(x[i + half]);
        put(y[i], a * number(cosine[i]) - sign * b * number(sine[i]));
        put(y[i + half], b * number(cosine[i + half]) + sign * a * number(sine[i + half]));
    }
}

// y (rows, tokens, heads, width); cosine, sine (rows or 1, tokens, turned)
template <typename Kept>
void turn_pairs(const Kept* x, const Kept* cosine, const Kept* sine, Kept* y, int64_t rows, int64_t of_each_row, int64_t tokens,
                int64_t heads, int64_t width, int64_t turned, float sign, int64_t threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t token = 0; token < rows * tokens; token++) {
        const int64_t angle = (of_each_row ? token : token % tokens) * turned;
        for (int64_t at = token * heads * width; at < (token + 1) * heads * width; at += width) {
            turn_head(x + at, cosine + angle, sine + angle, y + at, turned, sign);
            std::copy(x + at + turned, x + at + width, y + at + turned);
        }
    }
}

// Calls with a number of the kind that is kept; `in` and `out` are addresses of that kind.
template <typename Call>
inline void by_kind(bool bfloat16, Call call) {
    bfloat16 ? call(half_bits()) : call(float());
}

template <typename Kept>
inline const Kept* in(const void* x, Kept) { return static_cast<const Kept*>(x); }

template <typename Kept>
inline Kept* out(void* x, Kept) { return static_cast<Kept*>(x); }

extern "C" {

void rms_norm(const void* x, const float* weight, void* y, float* inverse, int64_t rows, int64_t width, float eps, int64_t bfloat16,
              int64_t threads) {
    by_kind(bfloat16, [&](auto kind) { rms_norm(in(x, kind), weight, out(y, kind), inverse, rows, width, eps, threads); });
}

void rms_norm_back(const void* x, const float* weight, const float* inverse, const void* dy, void* dx, float* dweight, int64_t rows,
                   int64_t width, int64_t bfloat16, int64_t threads) {
    by_kind(bfloat16, [&](auto kind) {
        rms_norm_back(in(x, kind), weight, inverse, in(dy, kind), out(dx, kind), dweight, rows, width, threads);
    });
}

void swiglu(const void* gate, const void* up, void* y, int64_t count, int64_t bfloat16, int64_t threads) {
    by_kind(bfloat16, [&](auto kind) { swiglu(in(gate, kind), in(up, kind), out(y, kind), count, threads); });
}

void swiglu_back(const void* gate, const void* up, const void* dy, void* dgate, void* dup, int64_t count, int64_t bfloat16,
                 int64_t threads) {
    by_kind(bfloat16, [&](auto kind) {
        swiglu_back(in(gate, kind), in(up, kind), in(dy, kind), out(dgate, kind), out(dup, kind), count, threads);
    });
}

void turn_pairs(const void* x, const void* cosine, const void* sine, void* y, int64_t rows, int64_t of_each_row, int64_t tokens,
                int64_t heads, int64_t width, int64_t turned, float sign, int64_t bfloat16, int64_t threads) {
    by_kind(bfloat16, [&](auto kind) {
        turn_pairs(in(x, kind), in(cosine, kind), in(sine, kind), out(y, kind), rows, of_each_row, tokens, heads, width, turned, sign,
                   threads);
    });
}
}
