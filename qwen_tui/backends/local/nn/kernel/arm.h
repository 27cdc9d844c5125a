/* The pass of Arm: `sdot`, four output rows to a vector. Compiled, not yet run anywhere. */
#include <arm_neon.h>

#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if defined(__clang__)
#define FOR_NEON __attribute__((target("dotprod")))
#else
#define FOR_NEON __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

static uint32_t levels_here(void) {
    uint32_t found = 1u << SCALAR;
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found |= 1u << NEON;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    if (!sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, NULL, 0) && has)
        found |= 1u << NEON;
#endif
    return found;
}

ALWAYS FOR_NEON int8x16_t around(const int8_t *code) {
    return vreinterpretq_s8_s32(vdupq_n_s32(four(code)));
}

ALWAYS FOR_NEON void neon_body(const Job *job, int64_t panel, int64_t first, const int rows,
                               const int kind, const int terms) {
    const Layer *layer = job->layer;
    const int64_t groups = job->groups, columns = groups * GROUP;
    const int halves = kind == INT8 ? 1 : 2, lines = 16 / halves;
    const uint8_t *weight = layer->weight + panel * groups * lines * LINE;
    const uint16_t *scale = layer->scale + panel * groups * PANEL;
    const uint16_t *zero = kind == INT4 ? layer->zero + panel * groups * PANEL : NULL;
    const int8_t *codes = job->codes + first * terms * columns;
    static const int8_t levels[16] = {NF4_LEVELS};
    const int8x16_t table = vld1q_s8(levels);
    float32x4_t sums[TILE][4];
    UNROLL for (int row = 0; row < rows; row++)
        UNROLL for (int part = 0; part < 4; part++) sums[row][part] = vdupq_n_f32(0);
    for (int64_t group = 0; group < groups; group++) {
        const int8_t *here = codes + group * GROUP;
        UNROLL for (int part = 0; part < 4; part++) {
            int32x4_t dots[TILE], coarse[TILE];
            UNROLL for (int row = 0; row < rows; row++) {
                int32_t sum = kind == INT4 ? job->sums[(first + row) * groups + group] : 0;
                dots[row] = vdupq_n_s32(-8 * sum);
                coarse[row] = vdupq_n_s32(0);
            }
            for (int line = 0; line < lines; line++) {
                const uint8_t *at = weight + line * LINE + part * 16;
                __builtin_prefetch(at + AHEAD);
                uint8x16_t both = vld1q_u8(at);
                int8x16_t left, right;
                if (kind == INT8) {
                    left = right = vreinterpretq_s8_u8(veorq_u8(both, vdupq_n_u8(128)));
                } else {
                    uint8x16_t low = vandq_u8(both, vdupq_n_u8(15)), high = vshrq_n_u8(both, 4);
                    left = kind == NF4 ? vqtbl1q_s8(table, low) : vreinterpretq_s8_u8(low);
                    right = kind == NF4 ? vqtbl1q_s8(table, high) : vreinterpretq_s8_u8(high);
                }
                UNROLL for (int row = 0; row < rows; row++) {
                    const int8_t *code = here + row * terms * columns + 4 * line * halves;
                    if (terms == 2) {
                        coarse[row] = vdotq_s32(coarse[row], left, around(code));
                        if (halves == 2)
                            coarse[row] = vdotq_s32(coarse[row], right, around(code + 4));
                        code += columns;
                    }
                    dots[row] = vdotq_s32(dots[row], left, around(code));
                    if (halves == 2) dots[row] = vdotq_s32(dots[row], right, around(code + 4));
                }
            }
            float32x4_t step = vcvt_f32_f16(
                vreinterpret_f16_u16(vld1_u16(scale + part * 4)));
            float32x4_t level = step;
            if (kind == INT4)
                level = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(zero + part * 4)));
            UNROLL for (int row = 0; row < rows; row++) {
                int64_t at = (first + row) * groups + group;
                int32x4_t dot = dots[row];
                if (terms == 2) dot = vmlaq_n_s32(dot, coarse[row], FINER);
                float32x4_t worth = vmulq_n_f32(step, job->steps[at]);
                float32x4_t sum = vfmaq_f32(sums[row][part], vcvtq_f32_s32(dot), worth);
                if (kind == INT4) sum = vfmaq_n_f32(sum, level, job->shares[at]);
                sums[row][part] = sum;
            }
        }
        weight += lines * LINE;
        scale += PANEL;
        if (kind == INT4) zero += PANEL;
    }
    UNROLL for (int row = 0; row < rows; row++) {
        float whole[PANEL];
        UNROLL for (int part = 0; part < 4; part++) vst1q_f32(whole + part * 4, sums[row][part]);
        stored(job, panel, first + row, whole);
    }
}

FOR_NEON static void neon_pass(const Job *job, int64_t panel, int64_t first, int rows) {
    FOR_ALL(neon_body)
}
