/* The passes of x86: AVX2 by pairs of 16-bit sums, and two widths of `vpdpbusd`. */
#include <cpuid.h>
#include <immintrin.h>

#define FOR_AVX2 __attribute__((target("avx2,fma,f16c")))
#define FOR_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")))
#if defined(__clang__) || __GNUC__ >= 11
#define HAS_AVX_VNNI 1
#define FOR_AVX_VNNI __attribute__((target("avxvnni,avx2,fma,f16c")))
#endif

/* Which levels run here, as bits: the CPU has the instructions and the system keeps the registers. */
static uint32_t levels_here(void) {
    uint32_t a, b, c, d, found = 1u << SCALAR, kept;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d)) return found;
    const uint32_t fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    if ((c & (fma | osxsave | avx | f16c)) != (fma | osxsave | avx | f16c)) return found;
    __asm__ volatile("xgetbv" : "=a"(kept), "=d"(d) : "c"(0));
    if ((kept & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
    const uint32_t most = a, avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F DQ BW VL */
    if (!(b & 1u << 5)) return found;
    found |= 1u << AVX2;
    if ((kept & 0xe6) == 0xe6 && (b & avx512) == avx512 && c & 1u << 11)
        found |= 1u << AVX512 | 1u << AVX512_VL;
#ifdef HAS_AVX_VNNI
    if (most >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & 1u << 4)
        found |= 1u << AVX_VNNI;
#endif
    return found;
}

/* Signed weights of a vector as magnitudes, and activations with the weights' signs: `vpmaddubsw`
 * wants one side unsigned. No pair of products leaves 16 bits, for both sides end at 127. */
ALWAYS FOR_AVX2 __m256i signed_dot(__m256i sum, __m256i size, __m256i weight, __m256i code) {
    __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(code, weight));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

ALWAYS FOR_AVX2 void avx2_body(const Job *job, int64_t panel, int64_t first, const int rows,
                               const int kind, const int terms) {
    const Layer *layer = job->layer;
    const int64_t groups = job->groups, columns = groups * GROUP;
    const int lines = kind == INT8 ? 16 : 8;
    const uint8_t *weight = layer->weight + panel * groups * lines * LINE;
    const uint16_t *scale = layer->scale + panel * groups * PANEL;
    const uint16_t *zero = kind == INT4 ? layer->zero + panel * groups * PANEL : NULL;
    const int8_t *codes = job->codes + first * terms * columns;
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(NF4_LEVELS));
    __m256 sums[TILE][2];
    UNROLL for (int row = 0; row < rows; row++) sums[row][0] = sums[row][1] = _mm256_setzero_ps();
    for (int64_t group = 0; group < groups; group++) {
        const int8_t *here = codes + group * GROUP;
        UNROLL for (int part = 0; part < 2; part++) {
            __m256i dots[TILE][2];
            UNROLL for (int row = 0; row < rows; row++) {
                int32_t sum = kind == INT4 ? job->sums[(first + row) * groups + group] : 0;
                dots[row][0] = _mm256_set1_epi32(-8 * sum);
                dots[row][1] = _mm256_setzero_si256();
            }
            if (kind == INT4) {
                /* Eight products of pairs fit 16 bits: 8·2·15·127 = 30,480. */
                UNROLL for (int term = 0; term < terms; term++)
                    for (int half = 0; half < 2; half++) {
                        __m256i pairs[TILE];
                        UNROLL for (int row = 0; row < rows; row++)
                            pairs[row] = _mm256_setzero_si256();
                        for (int line = 0; line < 4; line++) {
                            const int at = half * 4 + line;
                            const uint8_t *from = weight + at * LINE + part * 32;
                            if (term == 0) __builtin_prefetch(from + AHEAD);
                            __m256i both = _mm256_loadu_si256((const __m256i *)from);
                            __m256i left = _mm256_and_si256(both, low);
                            __m256i right = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
                            UNROLL for (int row = 0; row < rows; row++) {
                                const int8_t *code = here + (row * terms + term) * columns + 8 * at;
                                __m256i one = _mm256_set1_epi32(four(code));
                                __m256i two = _mm256_set1_epi32(four(code + 4));
                                one = _mm256_maddubs_epi16(left, one);
                                two = _mm256_maddubs_epi16(right, two);
                                pairs[row] = _mm256_add_epi16(pairs[row], _mm256_add_epi16(one, two));
                            }
                        }
                        const int to = terms == 2 && term == 0;
                        UNROLL for (int row = 0; row < rows; row++)
                            dots[row][to] = _mm256_add_epi32(
                                dots[row][to], _mm256_madd_epi16(pairs[row], ones));
                    }
            } else {
                for (int line = 0; line < lines; line++) {
                    const uint8_t *from = weight + line * LINE + part * 32;
                    __builtin_prefetch(from + AHEAD);
                    __m256i left = _mm256_loadu_si256((const __m256i *)from), right = left;
                    if (kind == NF4) {
                        left = _mm256_shuffle_epi8(table, _mm256_and_si256(left, low));
                        right = _mm256_and_si256(_mm256_srli_epi16(right, 4), low);
                        right = _mm256_shuffle_epi8(table, right);
                    } else {
                        left = _mm256_xor_si256(left, _mm256_set1_epi8(-128));
                    }
                    __m256i size1 = _mm256_abs_epi8(left), size2 = _mm256_abs_epi8(right);
                    const int wide = kind == NF4 ? 8 : 4;
                    UNROLL for (int row = 0; row < rows; row++)
                        UNROLL for (int term = 0; term < terms; term++) {
                            const int8_t *code = here + (row * terms + term) * columns + wide * line;
                            const int to = terms == 2 && term == 0;
                            __m256i sum = dots[row][to];
                            sum = signed_dot(sum, size1, left, _mm256_set1_epi32(four(code)));
                            if (kind == NF4)
                                sum = signed_dot(
                                    sum, size2, right, _mm256_set1_epi32(four(code + 4)));
                            dots[row][to] = sum;
                        }
                }
            }
            __m256 step = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(scale + part * 8)));
            __m256 level = step;
            if (kind == INT4)
                level = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(zero + part * 8)));
            UNROLL for (int row = 0; row < rows; row++) {
                int64_t at = (first + row) * groups + group;
                __m256i dot = dots[row][0];
                if (terms == 2)
                    dot = _mm256_add_epi32(
                        dot, _mm256_mullo_epi32(dots[row][1], _mm256_set1_epi32(FINER)));
                __m256 worth = _mm256_mul_ps(step, _mm256_set1_ps(job->steps[at]));
                __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), worth, sums[row][part]);
                if (kind == INT4)
                    sum = _mm256_fmadd_ps(level, _mm256_set1_ps(job->shares[at]), sum);
                sums[row][part] = sum;
            }
        }
        weight += lines * LINE;
        scale += PANEL;
        if (kind == INT4) zero += PANEL;
    }
    UNROLL for (int row = 0; row < rows; row++) {
        float whole[PANEL];
        _mm256_storeu_ps(whole, sums[row][0]);
        _mm256_storeu_ps(whole + 8, sums[row][1]);
        stored(job, panel, first + row, whole);
    }
}

FOR_AVX2 static void avx2_pass(const Job *job, int64_t panel, int64_t first, int rows) {
    FOR_ALL(avx2_body)
}

/* NF4's levels and what shifts them to be unsigned. */
#define SHIFTED(x) _mm_xor_si128(x, _mm_set1_epi8(-128))


#define NAME(x) avx512_##x
#define TARGET FOR_AVX512
#define PARTS 1
#define VI __m512i
#define VF __m512
#define TABLE() _mm512_broadcast_i32x4(SHIFTED(_mm_setr_epi8(NF4_LEVELS)))
#define V_SET8(x) _mm512_set1_epi8(x)
#define V_SET32(x) _mm512_set1_epi32(x)
#define V_SETF(x) _mm512_set1_ps(x)
#define V_ZERO() _mm512_setzero_ps()
#define V_LOAD(p) _mm512_loadu_si512((const void *)(p))
#define V_AND _mm512_and_si512
#define V_RIGHT4(x) _mm512_srli_epi16(x, 4)
#define V_LOOK _mm512_shuffle_epi8
#define V_DOT _mm512_dpbusd_epi32
#define V_ADD _mm512_add_epi32
#define V_TIMES _mm512_mullo_epi32
#define V_FLOAT _mm512_cvtepi32_ps
#define V_HALF(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define V_MUL _mm512_mul_ps
#define V_FMA _mm512_fmadd_ps
#define V_STORE _mm512_storeu_ps
#include "vnni.h"

#define NAME(x) avx512_vl_##x
#define TARGET FOR_AVX512
#define V_DOT _mm256_dpbusd_epi32
#include "vnni256.h"

#ifdef HAS_AVX_VNNI
#define NAME(x) avx_vnni_##x
#define TARGET FOR_AVX_VNNI
#define V_DOT _mm256_dpbusd_avx_epi32
#include "vnni256.h"
#endif
