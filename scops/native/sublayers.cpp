// Sub-layers of a language model for one new token per row, each in one call: what Python would say in twenty.
// All arithmetic between products is in float32; the stream is read and written in the system's dtype.
#include "learning.h"
#include "prefill.h"

enum NormKind { NO_NORM = 0, ROOT_MEAN_SQUARE = 1, CENTRED = 2 };

struct Norm {
    int64_t kind, width;
    const float *weight, *bias;  // bias may be null
    float eps;
};

static void norm_in_place(float* x, int64_t width, const Norm& norm) {
    if (norm.kind == NO_NORM) return;
    float mean = 0, sum = 0;
    if (norm.kind == CENTRED) {
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < width; i++) mean += x[i];
        mean /= float(width);
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / std::sqrt(sum / float(width) + norm.eps);
#pragma omp simd
    for (int64_t i = 0; i < width; i++) x[i] = (x[i] - mean) * factor * norm.weight[i];
    if (norm.bias)
        for (int64_t i = 0; i < width; i++) x[i] += norm.bias[i];
}

enum Activation { RELU = 0, SILU = 1, GELU = 2, GELU_TANH = 3 };

// x times the share of a normal distribution below it; the complementary error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26)
static inline float gelu(float x) {
    const float z = std::fabs(x) * 0.70710678f, t = 1 / (1 + 0.3275911f * z);
    const float above = 0.5f * exponential(-z * z) *
        t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    return x * (x < 0 ? above : 1 - above);
}

static void activate(float* x, int64_t count, int64_t activation) {
    if (activation == RELU)
        for (int64_t i = 0; i < count; i++) x[i] = std::max(x[i], 0.0f);
    if (activation == SILU)
        for (int64_t i = 0; i < count; i++) x[i] *= sigmoid(x[i]);
    if (activation == GELU)
        for (int64_t i = 0; i < count; i++) x[i] = gelu(x[i]);
    if (activation == GELU_TANH)
        for (int64_t i = 0; i < count; i++) x[i] *= sigmoid(1.59576912f * (x[i] + 0.044715f * x[i] * x[i] * x[i]));
}

static void gather(const void* x, int64_t row, bool bfloat16, const Vectors& to) {
    for (int64_t i = 0; i < to.cols; i++) to.row(row)[i] = load(x, row * to.cols + i, bfloat16);
}

static void round_all(const Vectors& x, int64_t row, int64_t format) {
    for (int64_t g = 0; g < x.groups; g++) x.round(row, g, format);
}

// y (rows, w.rows) = residual + w x, tile by tile; residual may be null and is in y's dtype
static void project(const Matrix& w, const Vectors& x, int64_t rows, const void* residual, void* y, bool bfloat16) {
    int64_t begin, end;
    share(w.tiles(), begin, end);
    float out[MOST * TILE];
    for (int64_t tile = begin; tile < end; tile++) {
        products(w, tile, x, rows, out);
        for (int64_t m = 0; m < rows; m++)
            for (int64_t i = 0; i < std::min<int64_t>(w.rows - tile * TILE, TILE); i++) {
                int64_t at = m * w.rows + tile * TILE + i;
                store(y, at, out[m * TILE + i] + (residual ? load(residual, at, bfloat16) : 0), bfloat16);
            }
    }
}

struct AttentionLayer {
    Norm before, q_norm, k_norm;
    Matrix q, k, v, o;
    int64_t heads, kv_heads, width;
    float scale;
    const float* slopes;  // (heads) of linear biases by distance, or null
};

struct FeedForwardLayer {
    Norm before;
    Matrix gate, up, down;  // gate without data: the activation is of `up`
    int64_t activation;
};

// One sub-layer of a step: of the three pointers that say what it is two are null.
struct Layer {
    const AttentionLayer* attention;
    const FeedForwardLayer* feed_forward;
    const Norm* norm;
    void *keys, *values;        // of the cache, for this attention
    const float *cosine, *sine;  // (rows, turned), or null
    int64_t turned;              // channels of each head
};

static int64_t most_chunks(const Pages& p, int64_t rows) {
    int64_t chunks = 0;
    for (int64_t row = 0; row < rows; row++) chunks = std::max(chunks, p.chunks(row));
    return chunks;
}

static int64_t room_of(const AttentionLayer& l, const Pages& p, int64_t rows) {
    const int64_t partial = rows * l.heads * most_chunks(p, rows) * (l.width + 2) * 4;
    return Vectors::bytes(rows, l.q.cols) + Vectors::bytes(rows, l.q.rows) + rows * (l.q.rows + 2 * l.k.rows) * 6 + partial;
}

static int64_t room_of(const FeedForwardLayer& l, int64_t rows) {
    return Vectors::bytes(rows, l.up.cols) + Vectors::bytes(rows, l.up.rows);
}

// What a row's query heads found in each chunk of its keys: (rows, heads, chunks), of which `found` has a width more.
struct Parts {
    int64_t heads, chunks, width;
    float *found, *most, *total;

    int64_t at(int64_t row, int64_t head, int64_t chunk) const { return (row * heads + head) * chunks + chunk; }

    // y[from ... upto), columns of one of the heads that stand side by side, out of the first `mine` chunks
    void join(int64_t row, int64_t mine, int64_t from, int64_t upto, float* y) const {
        const int64_t head = from / width, first = at(row, head, 0);
        const float high = *std::max_element(most + first, most + first + mine);
        float sum = 0;
        std::fill(y + from, y + upto, 0.0f);
        for (int64_t c = first; c < first + mine; c++) {
            const float factor = exponential(most[c] - high);
            sum += factor * total[c];
            for (int64_t i = from; i < upto; i++) y[i] += factor * found[c * width + i - head * width];
        }
        for (int64_t i = from; i < upto; i++) y[i] /= sum;
    }
};

// x += o(attention(rope(q norm(x)), ...)), and the new keys and values into their pages. Called by all threads together.
static void attention(const AttentionLayer& l, const Pages& p, int64_t rows, const Layer& step, void* x, bool bfloat16,
                      char* room) {
    const int64_t width = p.width, group = l.heads / p.heads, q_wide = l.q.rows, k_wide = l.k.rows;
    const int64_t chunks = most_chunks(p, rows);
    Vectors in(room, rows, l.q.cols), found(room, rows, q_wide);
    float* q = reinterpret_cast<float*>(room);
    float *k = q + rows * q_wide, *v = k + rows * k_wide;
    const int64_t units = rows * l.heads * chunks;
    float* found_in = v + rows * k_wide;
    const Parts parts{l.heads, chunks, width, found_in, found_in + units * width, found_in + units * (width + 1)};
    half_bits* q16 = reinterpret_cast<half_bits*>(found_in + units * (width + 2));
    int64_t begin, end;
    share(rows, begin, end);
    for (int64_t row = begin; row < end; row++) {
        gather(x, row, bfloat16, in);
        norm_in_place(in.row(row), in.cols, l.before);
        round_all(in, row, l.q.format);
    }
#pragma omp barrier
    project(l.q, in, rows, nullptr, q, false);
    project(l.k, in, rows, nullptr, k, false);
    project(l.v, in, rows, nullptr, v, false);
#pragma omp barrier
    share(rows * p.heads, begin, end);
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t row = unit / p.heads, head = unit % p.heads, at = p.at(row, head, p.lengths[row]);
        const float *cosine = step.cosine + row * step.turned, *sine = step.sine + row * step.turned;
        float *key = k + row * k_wide + head * width, *value = v + row * k_wide + head * width;
        norm_in_place(key, width, l.k_norm);
        if (step.cosine) turn_head(key, cosine, sine, key, step.turned, 1);
        for (int64_t i = 0; i < width; i++) {
            store(p.keys, at + i, key[i], p.bfloat16);
            store(p.values, at + i, value[i], p.bfloat16);
        }
        for (int64_t h = head * group; h < (head + 1) * group; h++) {
            float* query = q + row * q_wide + h * width;
            norm_in_place(query, width, l.q_norm);
            if (step.cosine) turn_head(query, cosine, sine, query, step.turned, 1);
            for (int64_t i = 0; i < width; i++) q16[row * q_wide + h * width + i] = to_bfloat16(query[i]);
        }
    }
#pragma omp barrier
#pragma omp for schedule(dynamic, 1)
    for (int64_t unit = 0; unit < rows * p.heads * chunks; unit++) {
        const int64_t row = unit / (p.heads * chunks), head = unit / chunks % p.heads, chunk = unit % chunks;
        if (chunk >= p.chunks(row)) continue;
        float out[256 * 64], high[64], sum[64];
        const int64_t first = row * q_wide + head * group * width;
        const float* slopes = l.slopes ? l.slopes + head * group : nullptr;
        attend_chunk(p, row, head, p.span(row, chunk), q + first, q16 + first, group, l.scale, slopes, out, high, sum);
        for (int64_t i = 0; i < group; i++) {
            const int64_t at = parts.at(row, head * group + i, chunk);
            parts.most[at] = high[i], parts.total[at] = sum[i];
            std::copy(out + i * width, out + (i + 1) * width, parts.found + at * width);
        }
    }
    share(rows * found.groups, begin, end);
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t row = unit / found.groups, columns = unit % found.groups;
        const int64_t last = std::min<int64_t>((columns + 1) * GROUP, q_wide);
        for (int64_t from = columns * GROUP, upto; from < last; from = upto) {
            upto = std::min(last, (from / width + 1) * width);
            parts.join(row, p.chunks(row), from, upto, found.row(row));
        }
        found.round(row, columns, l.o.format);
    }
#pragma omp barrier
    project(l.o, found, rows, x, x, bfloat16);
}

// x += down(act(gate norm(x)) * up norm(x)), or down(act(up norm(x))). Called by all threads together.
static void feed_forward(const FeedForwardLayer& l, int64_t rows, void* x, bool bfloat16, char* room) {
    Vectors in(room, rows, l.up.cols), inner(room, rows, l.up.rows);
    int64_t begin, end;
    share(rows, begin, end);
    for (int64_t row = begin; row < end; row++) {
        gather(x, row, bfloat16, in);
        norm_in_place(in.row(row), in.cols, l.before);
        round_all(in, row, l.up.format);
    }
#pragma omp barrier
    share(inner.groups, begin, end);
    float gate[MOST * TILE] = {}, up[MOST * TILE] = {};
    for (int64_t group = begin; group < end; group++) {
        for (int64_t tile = group * TILES; tile < std::min(l.up.tiles(), (group + 1) * TILES); tile++) {
            products(l.up, tile, in, rows, up);
            if (l.gate.data) products(l.gate, tile, in, rows, gate);
            activate(l.gate.data ? gate : up, rows * TILE, l.activation);
            for (int64_t m = 0; m < rows; m++)
                for (int64_t i = 0; i < std::min<int64_t>(l.up.rows - tile * TILE, TILE); i++)
                    inner.row(m)[tile * TILE + i] = up[m * TILE + i] * (l.gate.data ? gate[m * TILE + i] : 1);
        }
        for (int64_t m = 0; m < rows; m++) inner.round(m, group, l.down.format);
    }
#pragma omp barrier
    project(l.down, inner, rows, x, x, bfloat16);
}

// x = norm(x). Called by all threads together.
static void normalise(const Norm& norm, int64_t rows, void* x, bool bfloat16, char* room) {
    Vectors in(room, rows, norm.width);
    int64_t begin, end;
    share(rows, begin, end);
    for (int64_t row = begin; row < end; row++) {
        gather(x, row, bfloat16, in);
        norm_in_place(in.row(row), norm.width, norm);
        for (int64_t i = 0; i < norm.width; i++) store(x, row * norm.width + i, in.row(row)[i], bfloat16);
    }
}

static Pages pages_for(const Layer& layer, Pages p) {
    p.heads = layer.attention->kv_heads, p.width = layer.attention->width, p.keys = layer.keys, p.values = layer.values;
    return p;
}

extern "C" {

int64_t steps_room(const Layer* layers, int64_t count, const Pages* pages, int64_t rows) {
    int64_t most = 0;
    for (const Layer* l = layers; l < layers + count; l++) {
        if (l->attention) most = std::max(most, room_of(*l->attention, pages_for(*l, *pages), rows));
        if (l->feed_forward) most = std::max(most, room_of(*l->feed_forward, rows));
        if (l->norm) most = std::max(most, Vectors::bytes(rows, l->norm->width));
    }
    return most + 1024;
}

// x (rows, width of the stream) through all layers, in place. Of `pages` the layers fill in what is theirs.
void steps(const Layer* layers, int64_t count, const Pages* pages, int64_t rows, void* x, int64_t bfloat16, char* room,
           int64_t threads) {
#pragma omp parallel num_threads(threads)
    for (const Layer* l = layers; l < layers + count; l++) {
        if (l->attention) attention(*l->attention, pages_for(*l, *pages), rows, *l, x, bfloat16, room);
        if (l->feed_forward) feed_forward(*l->feed_forward, rows, x, bfloat16, room);
        if (l->norm) normalise(*l->norm, rows, x, bfloat16, room);
#pragma omp barrier
    }
}

int64_t product_room(const Matrix* w, int64_t rows) { return Vectors::bytes(rows, w->cols) + 1024; }

// y = w x
void product(const Matrix* w, int64_t rows, const void* x, int64_t x_bfloat16, void* y, int64_t y_bfloat16, char* room,
             int64_t threads) {
    Vectors in(room, rows, w->cols);
#pragma omp parallel num_threads(threads)
    {
        int64_t begin, end;
        share(rows, begin, end);
        for (int64_t row = begin; row < end; row++) {
            gather(x, row, x_bfloat16, in);
            round_all(in, row, w->format);
        }
#pragma omp barrier
        project(*w, in, rows, nullptr, y, y_bfloat16);
    }
}

// y (w.rows, w.cols): int8 or int4 weights as floats
void floats(const Matrix* w, void* y, int64_t bfloat16, int64_t threads) {
    const int64_t groups = w->groups(), bytes = w->format == INT8 ? 512 : 256;
#pragma omp parallel for num_threads(threads)
    for (int64_t tile = 0; tile < w->tiles(); tile++)
        for (int64_t g = 0; g < groups; g++) {
            const uint8_t* data = static_cast<const uint8_t*>(w->data) + (tile * groups + g) * bytes;
            for (int64_t row = 0; row < std::min<int64_t>(w->rows - tile * TILE, TILE); row++) {
                const float scale = from_float16(w->scales[(tile * groups + g) * TILE + row]);
                const int64_t at = (tile * TILE + row) * w->cols + g * GROUP;
                float values[GROUP];
                for (int i = 0; i < GROUP; i++) {
                    const int half = i / 16, quad = w->format == INT8 ? i / 4 : i % 16 / 4;
                    const uint8_t byte = data[quad * 64 + row * 4 + i % 4];
                    values[i] = scale * (w->format == INT8 ? byte - 128 : (half ? byte >> 4 : byte & 15) - 8);
                }
                for (int64_t i = 0; i < std::min<int64_t>(w->cols - g * GROUP, GROUP); i++)
                    store(y, at + i, values[i], bfloat16);
            }
        }
}

int64_t prefill_room(const Pages* p, int64_t rows, int64_t keys) { return rows * p->heads * ((keys + 31) / 32 * 32) * p->width * 4 + 64; }

int64_t multiplies_bfloat16() { return HAS_PREFILL; }

int64_t prefill_takes_width(int64_t width) {
#if HAS_PREFILL
    return prefill_takes(width);
#else
    return 0;
#endif
}

// q, y (rows, tokens, heads, width), bfloat16, of which `counts` are real in each row; their keys and values are in the pages,
// and `lengths` counts the old ones only
void prefill(const Pages* pages, int64_t rows, int64_t heads, int64_t tokens, const int64_t* counts, int64_t keys, const half_bits* q,
             half_bits* y, float scale, char* room, int64_t threads) {
#if HAS_PREFILL
    const Pages& p = *pages;
    const int64_t tiles = (keys + 31) / 32 * 2, pairs = p.width / 2, blocks = (tokens + QUERIES - 1) / QUERIES;
    uint32_t* all_keys = reinterpret_cast<uint32_t*>(room);
    half_bits* all_values = reinterpret_cast<half_bits*>(all_keys + rows * p.heads * tiles * 16 * pairs);
    const int64_t size = tiles * 16 * pairs;  // of one head's keys, in pairs
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t unit = 0; unit < rows * p.heads * tiles; unit++) {
            const int64_t head = unit / tiles, row = head / p.heads;
            lay_out(p, row, head % p.heads, unit % tiles, p.lengths[row] + counts[row], all_keys + head * size, all_values + head * size * 2);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t unit = rows * heads * blocks - 1; unit >= 0; unit--) {
            const int64_t block = unit / (rows * heads), row = unit / heads % rows, head = unit % heads;
            const int64_t first = block * QUERIES, count = std::min<int64_t>(QUERIES, counts[row] - first);
            if (count <= 0) continue;
            const int64_t kept = row * p.heads + head / (heads / p.heads);
            alignas(64) uint32_t queries[QUERIES * 64];
            alignas(64) float out[QUERIES * 128];
            for (int64_t i = 0; i < QUERIES; i++)
                std::memcpy(queries + i * pairs, q + ((row * tokens + first + std::min<int64_t>(i, count - 1)) * heads + head) * p.width, p.width * 2);
            attend_queries(p, row, first, count, queries, all_keys + kept * size, all_values + kept * size * 2, scale, out);
            for (int64_t i = 0; i < count; i++)
                for (int64_t h = 0; h < p.width; h++)
                    y[((row * tokens + first + i) * heads + head) * p.width + h] = to_bfloat16(out[i * p.width + h]);
        }
    }
#endif
}
}
