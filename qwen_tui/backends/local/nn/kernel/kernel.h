/* What the parts of the kernel share: the layout of weights and activations, and one job. */
#ifndef QWEN_TUI_KERNEL_H
#define QWEN_TUI_KERNEL_H

#include <stdint.h>
#include <string.h>

#define PANEL 16  /* output rows that lie interleaved */
#define GROUP 64  /* columns that share one scale, of weights and of activations */
#define LINE 64   /* bytes: 16 rows by 8 columns in 4 bits, by 4 columns in 8 bits */
#define TILE 8    /* rows of activations that a pass over a panel multiplies at most */
#define STEPS 127 /* integer steps of an activation on either side of zero */
#define FINER 254 /* how many times finer the second term of an activation is */
#ifndef AHEAD
#define AHEAD 4096 /* bytes that weights are fetched ahead of their use */
#endif

enum { INT4, NF4, INT8, KINDS };
enum { SCALAR, AVX2, AVX_VNNI, AVX512_VL, AVX512, NEON, LEVELS };

/* One linear layer. `weight` is [rows/16, groups, lines, 64] bytes, 64-byte aligned; `scale` and,
 * for INT4, `zero` are fp16 [rows/16, groups, 16] in units of `unit`; `bias` [rows] or NULL. Both
 * sizes are rounded up in memory: rows to PANEL, columns to GROUP. */
typedef struct {
    const uint8_t *weight;
    const uint16_t *scale, *zero;
    const float *bias;
    int64_t rows, columns;
    float unit;
    int32_t kind, terms, level;
} Layer;

/* Activations in integers. A row's `codes` are [terms, columns rounded up]; `sums` [groups] the sum
 * of its codes in steps of the finest term, `steps` [groups] what such a step is worth, `shares`
 * [groups] their product. */
typedef struct {
    const Layer *layer;
    int64_t groups, count;
    const int8_t *codes;
    const int32_t *sums;
    const float *steps, *shares;
    const float *onto;
    float *out;
} Job;

/* NF4's levels by 112.03, which rounds them with the least error of all factors up to 127. */
#define NF4_UNIT 112.03f
#define NF4_LEVELS -112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112

#define ALWAYS static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

ALWAYS int32_t four(const int8_t *codes) {
    int32_t whole;
    memcpy(&whole, codes, sizeof whole);
    return whole;
}

/* A panel's sums of one row of activations go to their place in the result. */
ALWAYS void stored(const Job *job, int64_t panel, int64_t row, const float *sums) {
    const Layer *layer = job->layer;
    int64_t first = panel * PANEL, left = layer->rows - first;
    int64_t end = left < PANEL ? left : PANEL, at = row * layer->rows + first;
    for (int64_t lane = 0; lane < end; lane++) {
        float sum = sums[lane];
        if (layer->bias) sum += layer->bias[first + lane];
        if (job->onto) sum += job->onto[at + lane];
        job->out[at + lane] = sum;
    }
}

/* `rows` of activations from `first` on, by one panel. */
typedef void (*Pass)(const Job *job, int64_t panel, int64_t first, int rows);

/* Calls BODY with kind, terms and rows as constants; BODY is inlined for each. */
#define FOR_ROWS(BODY, KIND, TERMS)                                                \
    switch (rows) {                                                                \
    case 1: BODY(job, panel, first, 1, KIND, TERMS); return;                       \
    case 2: BODY(job, panel, first, 2, KIND, TERMS); return;                       \
    case 4: BODY(job, panel, first, 4, KIND, TERMS); return;                       \
    default: BODY(job, panel, first, (TERMS) == 1 ? 8 : 4, KIND, TERMS); return;   \
    }
#define FOR_TERMS(BODY, KIND)                        \
    if (job->layer->terms == 1) FOR_ROWS(BODY, KIND, 1) \
    else FOR_ROWS(BODY, KIND, 2)
#define FOR_ALL(BODY)                          \
    switch (job->layer->kind) {                \
    case INT4: FOR_TERMS(BODY, INT4) break;    \
    case NF4: FOR_TERMS(BODY, NF4) break;      \
    default: FOR_TERMS(BODY, INT8) break;      \
    }

#endif
