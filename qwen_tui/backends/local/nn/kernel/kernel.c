/* Linear layers with weights in 4 or 8 bits, by integer products.
 *
 * Law: every level computes the same bits: integer sums are exact, and what is done in floating
 * point is done in one order, with the same fused steps. So a row's result depends neither on the
 * rows beside it, nor on threads, nor on the CPU. Build it without floating-point contraction. */
#include "kernel.h"

#include <math.h>
#include <stdlib.h>

#ifndef DIGEST
#define DIGEST ""
#endif
#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#if defined(__x86_64__) || defined(_M_X64)
#include "x86.h"
#define FOR_WIDE FOR_AVX512
#define FOR_MIDDLE FOR_AVX2
#elif defined(__aarch64__) || defined(_M_ARM64)
#include "arm.h"
#else
static uint32_t levels_here(void) { return 1u << SCALAR; }
#endif

/* -- threads ----------------------------------------------------------------------------------- */

typedef void (*Range)(int64_t begin, int64_t end, void *context);
typedef int32_t (*ParallelFor)(int64_t begin, int64_t end, int64_t grain, Range, void *context);

static ParallelFor parallel_for;

static void over(int64_t end, int64_t grain, Range body, void *context) {
    if (grain < 1) grain = 1;
    if (!parallel_for || end <= grain || parallel_for(0, end, grain, body, context))
        body(0, end, context);
}

/* `address`: torch's `torch_parallel_for`, or NULL to compute on the calling thread. */
EXPORT void qwen_tui_threads(void *address) { memcpy(&parallel_for, &address, sizeof address); }

EXPORT const char *qwen_tui_digest(void) { return DIGEST; }

EXPORT uint32_t qwen_tui_levels(void) { return levels_here(); }

/* -- numbers ----------------------------------------------------------------------------------- */

static float from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff, bits;
    float value;
    if (rest >= 0x7c00) {
        bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
    } else if (rest >= 0x400) {
        bits = sign | ((rest << 13) + (112u << 23));
    } else {
        value = (float)rest * 0x1p-24f;
        return sign ? -value : value;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To the nearest fp16, ties to even; beyond its range the largest number. */
static uint16_t to_half(float value) {
    uint32_t bits;
    float size = fabsf(value);
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    if (!(size < 65504.0f)) return sign | 0x7bff;
    if (size < 0x1p-14f) return sign | (uint16_t)((size + 0.5f) * 0x1p24f - 0x1p23f);
    memcpy(&bits, &size, sizeof bits);
    bits += 0xfff + (bits >> 13 & 1);
    return sign | (uint16_t)((bits >> 13) - (112u << 10));
}

/* The nearest integer as a float, ties to even, for |x| < 2^22; vectors have it on every level. */
ALWAYS float rounded(float x) { return (x + 12582912.0f) - 12582912.0f; }

/* x / (1 + e^-x), within 3e-7 of it. */
ALWAYS float silu(float x) {
    float y = -x;
    y = y < -87.0f ? -87.0f : y > 88.0f ? 88.0f : y;
    float turns = rounded(y * 1.44269504f), r = (y - turns * 0.693359375f) + turns * 2.12194440e-4f;
    float power = 1.9875691500e-4f;
    power = power * r + 1.3981999507e-3f;
    power = power * r + 8.3334519073e-3f;
    power = power * r + 4.1665795894e-2f;
    power = power * r + 1.6666665459e-1f;
    power = power * r + 5.0000001201e-1f;
    power = (power * r * r + r) + 1.0f;
    int32_t bits = ((int32_t)turns + 127) << 23;
    float two;
    memcpy(&two, &bits, sizeof two);
    return x / (1.0f + power * two);
}

/* -- activations in integers ------------------------------------------------------------------- */

/* What a row of activations goes through first: nothing; RMSNorm with `norm` [columns]; or
 * silu of its first half times its second. */
enum { PLAIN, NORMED, GATED };

typedef struct {
    const Layer *layer;
    const float *x, *norm;
    float eps;
    int32_t mode;
    int64_t groups;
    int8_t *codes;
    int32_t *sums;
    float *steps, *shares;
} Input;

ALWAYS void group_in_integers(const float *values, int terms, int64_t columns, int8_t *codes,
                              int32_t *sum, float *step) {
    int32_t most = 0;
    for (int i = 0; i < GROUP; i++) {
        int32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float largest, finest = terms == 2 ? FINER : 1;
    memcpy(&largest, &most, sizeof largest);
    *sum = 0;
    /* A group of nothing, or one with a value that is not finite, which all results then show. */
    if (!(largest > 1e-30f && largest < INFINITY)) {
        memset(codes, 0, GROUP);
        if (terms == 2) memset(codes + columns, 0, GROUP);
        *step = largest > 1e-30f || largest != largest ? NAN : 0.0f;
        return;
    }
    float scale = STEPS / largest;
    int32_t total = 0, rest = 0;
    for (int i = 0; i < GROUP; i++) {
        float exact = values[i] * scale, first = rounded(exact);
        codes[i] = (int8_t)(int32_t)first;
        total += (int32_t)first;
        if (terms == 2) {
            int32_t second = (int32_t)rounded((exact - first) * FINER);
            codes[columns + i] = (int8_t)second;
            rest += second;
        }
    }
    *sum = terms == 2 ? FINER * total + rest : total;
    *step = largest / STEPS / finest;
}

ALWAYS void rows_in_integers(const Input *input, int64_t begin, int64_t end, const int mode) {
    const Layer *layer = input->layer;
    const int64_t groups = input->groups, columns = layer->columns, whole = groups * GROUP;
    const int terms = layer->terms;
    for (int64_t row = begin; row < end; row++) {
        const float *x = input->x + row * columns * (mode == GATED ? 2 : 1);
        float *steps = input->steps + row * groups, *shares = input->shares + row * groups;
        int32_t *sums = input->sums + row * groups;
        float squares[16] = {0};
        for (int64_t group = 0; group < groups; group++) {
            float values[GROUP];
            int64_t from = group * GROUP, count = columns - from < GROUP ? columns - from : GROUP;
            if (count < GROUP) memset(values, 0, sizeof values);
            memcpy(values, x + from, (size_t)count * sizeof *x);
            if (mode == NORMED) {
                for (int i = 0; i < GROUP; i++) squares[i % 16] += values[i] * values[i];
                for (int64_t i = 0; i < count; i++) values[i] *= input->norm[from + i];
            }
            if (mode == GATED)
                for (int64_t i = 0; i < count; i++) values[i] = silu(values[i]) * x[columns + from + i];
            group_in_integers(values, terms, whole, input->codes + row * terms * whole + from,
                              sums + group, steps + group);
        }
        float size = layer->unit;
        if (mode == NORMED) {
            float total = 0;
            for (int lane = 0; lane < 16; lane++) total += squares[lane];
            size /= sqrtf(total / (float)columns + input->eps);
        }
        for (int64_t group = 0; group < groups; group++) {
            steps[group] *= size;
            shares[group] = steps[group] * (float)sums[group];
        }
    }
}

ALWAYS void in_integers(const Input *input, int64_t begin, int64_t end) {
    if (input->mode == NORMED) rows_in_integers(input, begin, end, NORMED);
    else if (input->mode == GATED) rows_in_integers(input, begin, end, GATED);
    else rows_in_integers(input, begin, end, PLAIN);
}

static void plain_rows(int64_t begin, int64_t end, void *input) { in_integers(input, begin, end); }

#ifdef FOR_WIDE
FOR_WIDE static void wide_rows(int64_t begin, int64_t end, void *input) {
    in_integers(input, begin, end);
}

FOR_MIDDLE static void middle_rows(int64_t begin, int64_t end, void *input) {
    in_integers(input, begin, end);
}
#endif

static Range rows_of(int level) {
#ifdef FOR_WIDE
    if (level >= AVX512_VL) return wide_rows;
    if (level >= AVX2) return middle_rows;
#endif
    (void)level;
    return plain_rows;
}

/* -- the product ------------------------------------------------------------------------------- */

static void scalar_pass(const Job *job, int64_t panel, int64_t first, int rows) {
    static const int8_t levels[16] = {NF4_LEVELS};
    const Layer *layer = job->layer;
    const int64_t groups = job->groups, columns = groups * GROUP;
    const int lines = layer->kind == INT8 ? 16 : 8, terms = layer->terms;
    for (int64_t row = first; row < first + rows; row++) {
        float sums[PANEL] = {0};
        for (int64_t group = 0; group < groups; group++) {
            const uint8_t *weight = layer->weight + (panel * groups + group) * lines * LINE;
            const int64_t at = row * groups + group, worth = (panel * groups + group) * PANEL;
            for (int lane = 0; lane < PANEL; lane++) {
                int32_t dots[2] = {0, 0};
                for (int i = 0; i < GROUP; i++) {
                    int line = lines == 16 ? i / 4 : i / 8, half = lines == 16 ? 0 : i / 4 % 2;
                    int value = weight[line * LINE + 4 * lane + i % 4];
                    if (layer->kind == INT8) value -= 128;
                    else value = half ? value >> 4 : value & 15;
                    if (layer->kind == INT4) value -= 8;
                    if (layer->kind == NF4) value = levels[value];
                    for (int term = 0; term < terms; term++)
                        dots[term] += value *
                            job->codes[(row * terms + term) * columns + group * GROUP + i];
                }
                int32_t dot = terms == 2 ? FINER * dots[0] + dots[1] : dots[0];
                float step = from_half(layer->scale[worth + lane]) * job->steps[at];
                float sum = fmaf((float)dot, step, sums[lane]);
                if (layer->kind == INT4)
                    sum = fmaf(from_half(layer->zero[worth + lane]), job->shares[at], sum);
                sums[lane] = sum;
            }
        }
        stored(job, panel, row, sums);
    }
}

static Pass pass_of(int level) {
    switch (level) {
#if defined(FOR_WIDE)
    case AVX2: return avx2_pass;
#ifdef HAS_AVX_VNNI
    case AVX_VNNI: return avx_vnni_pass;
#endif
    case AVX512_VL: return avx512_vl_pass;
    case AVX512: return avx512_pass;
#elif defined(FOR_NEON)
    case NEON: return neon_pass;
#endif
    default: return scalar_pass;
    }
}

static void panels(int64_t begin, int64_t end, void *context) {
    const Job *job = context;
    Pass pass = pass_of(job->layer->level);
    const int most = job->layer->terms == 1 ? TILE : TILE / 2;
    for (int64_t panel = begin; panel < end; panel++)
        for (int64_t row = 0; row < job->count;) {
            int64_t left = job->count - row;
            int rows = left >= most ? most : left >= 4 ? 4 : left >= 2 ? 2 : 1;
            pass(job, panel, row, rows);
            row += rows;
        }
}

/* out [count, rows] = x · weightᵀ + bias + onto. x [count, columns], or twice as wide when GATED;
 * `onto` [count, rows] or NULL, and may be `out`. 0, or 1 for a layer that cannot be, 2 where
 * memory ran out. */
EXPORT int32_t qwen_tui_multiply(const Layer *layer, const float *x, int64_t count, int32_t mode,
                                 const float *norm, float eps, const float *onto, float *out) {
    if (!layer || count < 0 || layer->rows < 1 || layer->columns < 1) return 1;
    if ((uintptr_t)layer->weight % LINE || !layer->weight || !layer->scale) return 1;
    if (layer->kind < 0 || layer->kind >= KINDS || layer->terms < 1 || layer->terms > 2) return 1;
    if (layer->level < 0 || layer->level >= LEVELS || !(levels_here() & 1u << layer->level)) return 1;
    if ((layer->kind == INT4 && !layer->zero) || (mode == NORMED && !norm)) return 1;
    if (!count) return 0; /* torch gives an empty tensor no address */
    if (!x || !out) return 1;
    const int64_t groups = (layer->columns + GROUP - 1) / GROUP;
    const size_t numbers = (size_t)(count * groups), width = (size_t)layer->terms * GROUP;
    char *room = malloc(numbers * (width + sizeof(int32_t) + 2 * sizeof(float)));
    if (!room) return 2;
    int32_t *sums = (int32_t *)room;
    float *steps = (float *)(sums + numbers), *shares = steps + numbers;
    int8_t *codes = (int8_t *)(shares + numbers);
    Input input = {layer, x, norm, eps, mode, groups, codes, sums, steps, shares};
    over(count, 1 + 65536 / layer->columns, rows_of(layer->level), &input);
    Job job = {layer, groups, count, codes, sums, steps, shares, onto, out};
    const int64_t bytes = groups * (layer->kind == INT8 ? 1024 : 512) * ((count + 3) / 4);
    over((layer->rows + PANEL - 1) / PANEL, 1 + 65536 / bytes, panels, &job);
    free(room);
    return 0;
}

/* -- packing ----------------------------------------------------------------------------------- */

enum { FLOAT32, BFLOAT16, FLOAT16 };

typedef struct {
    const Layer *layer;
    const void *from;
    int32_t type;
    int64_t groups;
} Packing;

static float element(const Packing *packing, int64_t at) {
    const uint16_t *halves = packing->from;
    if (packing->type == FLOAT32) return ((const float *)packing->from)[at];
    if (packing->type == FLOAT16) return from_half(halves[at]);
    uint32_t bits = (uint32_t)halves[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

ALWAYS float held(float low, float x, float high) { return x < low ? low : x > high ? high : x; }

ALWAYS void group_packed(const float *values, int kind, float unit, uint8_t *codes,
                         uint16_t *scale, uint16_t *zero) {
    /* Halfway between neighbouring levels of NF4. */
    static const float between[15] = {
        -0.8480964004993439f, -0.6106329262256622f, -0.4599952697753906f, -0.33967943489551544f,
        -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
        0.1202552504837513f, 0.2035212516784668f, 0.2920137718319893f, 0.38931252807378769f,
        0.50166338682174683f, 0.64278696477413177f, 0.86147836595773697f};
    float low = values[0], high = values[0];
    for (int i = 0; i < GROUP; i++) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    float most = -low > high ? -low : high;
    float step = kind == INT4 ? (high - low) / 15 : kind == NF4 ? most / NF4_UNIT : most / 127;
    *scale = to_half(step / unit);
    if (!*scale) *scale = 1;
    step = from_half(*scale) * unit;
    if (kind == INT8) {
        float fine = 1 / step;
        for (int i = 0; i < GROUP; i++)
            codes[i] = (uint8_t)((int32_t)rounded(held(-127, values[i] * fine, 127)) + 128);
    } else if (kind == INT4) {
        *zero = to_half((low + 8 * step) / unit);
        float middle = from_half(*zero) * unit, fine = 1 / step;
        for (int i = 0; i < GROUP; i++)
            codes[i] = (uint8_t)(int32_t)rounded(held(0, (values[i] - middle) * fine + 8, 15));
    } else {
        float fine = most > 0 ? 1 / most : 0;
        for (int i = 0; i < GROUP; i++) {
            int32_t code = 0;
            for (int level = 0; level < 15; level++) code += values[i] * fine > between[level];
            codes[i] = (uint8_t)code;
        }
    }
}

ALWAYS void panels_packed(int64_t begin, int64_t end, const Packing *packing) {
    const Layer *layer = packing->layer;
    const int64_t groups = packing->groups;
    const int lines = layer->kind == INT8 ? 16 : 8;
    for (int64_t panel = begin; panel < end; panel++)
        for (int64_t group = 0; group < groups; group++)
            for (int lane = 0; lane < PANEL; lane++) {
                float values[GROUP] = {0};
                uint8_t codes[GROUP];
                const int64_t row = panel * PANEL + lane, from = group * GROUP;
                for (int64_t i = 0; row < layer->rows && i < GROUP && from + i < layer->columns; i++)
                    values[i] = element(packing, row * layer->columns + from + i);
                const int64_t at = (panel * groups + group) * PANEL + lane;
                uint16_t unused, *zero = layer->zero ? (uint16_t *)layer->zero + at : &unused;
                group_packed(values, layer->kind, layer->unit, codes,
                             (uint16_t *)layer->scale + at, zero);
                uint8_t *to = (uint8_t *)layer->weight + (panel * groups + group) * lines * LINE;
                for (int i = 0; i < GROUP; i++) {
                    if (lines == 16) to[i / 4 * LINE + 4 * lane + i % 4] = codes[i];
                    else if (i % 8 < 4)
                        to[i / 8 * LINE + 4 * lane + i % 4] =
                            (uint8_t)(codes[i] | codes[i + 4] << 4);
                }
            }
}

static void packed_plain(int64_t begin, int64_t end, void *context) {
    panels_packed(begin, end, context);
}

#ifdef FOR_WIDE
FOR_MIDDLE static void packed_middle(int64_t begin, int64_t end, void *context) {
    panels_packed(begin, end, context);
}
#endif

/* Quantise `from` [rows, columns] of `type` into the tensors of `layer`, which this writes. */
EXPORT int32_t qwen_tui_pack(const Layer *layer, const void *from, int32_t type) {
    if (!layer || !from || !layer->weight || !layer->scale || layer->rows < 1) return 1;
    if (layer->columns < 1 || layer->kind < 0 || layer->kind >= KINDS) return 1;
    if (layer->kind == INT4 && !layer->zero) return 1;
    if (type < FLOAT32 || type > FLOAT16 || !(layer->unit > 0)) return 1;
    Packing packing = {layer, from, type, (layer->columns + GROUP - 1) / GROUP};
    Range body = packed_plain;
#ifdef FOR_WIDE
    if (layer->level >= AVX2 && levels_here() & 1u << AVX2) body = packed_middle;
#endif
    over((layer->rows + PANEL - 1) / PANEL, 4, body, &packing);
    return 0;
}
