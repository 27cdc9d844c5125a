/* `vnni.h` in vectors of 32 bytes; the includer defines NAME, TARGET and V_DOT. */
#define PARTS 2
#define VI __m256i
#define VF __m256
#define TABLE() _mm256_broadcastsi128_si256(SHIFTED(_mm_setr_epi8(NF4_LEVELS)))
#define V_SET8(x) _mm256_set1_epi8(x)
#define V_SET32(x) _mm256_set1_epi32(x)
#define V_SETF(x) _mm256_set1_ps(x)
#define V_ZERO() _mm256_setzero_ps()
#define V_LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define V_AND _mm256_and_si256
#define V_RIGHT4(x) _mm256_srli_epi16(x, 4)
#define V_LOOK _mm256_shuffle_epi8
#define V_ADD _mm256_add_epi32
#define V_TIMES _mm256_mullo_epi32
#define V_FLOAT _mm256_cvtepi32_ps
#define V_HALF(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define V_MUL _mm256_mul_ps
#define V_FMA _mm256_fmadd_ps
#define V_STORE _mm256_storeu_ps
#include "vnni.h"
