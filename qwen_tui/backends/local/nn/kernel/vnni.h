/* A pass by `vpdpbusd`, included once for each width: unsigned weights by signed activations. The
 * includer defines NAME, TARGET, PARTS (vectors to a line), the types VI and VF, and what is done
 * with them. Weights are shifted to be unsigned; a group's sum starts at what that adds. */
ALWAYS TARGET void NAME(body)(const Job *job, int64_t panel, int64_t first, const int rows,
                              const int kind, const int terms) {
    const Layer *layer = job->layer;
    const int64_t groups = job->groups, columns = groups * GROUP;
    const int halves = kind == INT8 ? 1 : 2, lines = 16 / halves, shift = kind == INT4 ? 8 : 128;
    const uint8_t *weight = layer->weight + panel * groups * lines * LINE;
    const uint16_t *scale = layer->scale + panel * groups * PANEL;
    const uint16_t *zero = kind == INT4 ? layer->zero + panel * groups * PANEL : NULL;
    const int8_t *codes = job->codes + first * terms * columns;
    const VI table = TABLE(), low = V_SET8(15);
    VF sums[TILE][PARTS];
    UNROLL for (int row = 0; row < rows; row++)
        UNROLL for (int part = 0; part < PARTS; part++) sums[row][part] = V_ZERO();
    for (int64_t group = 0; group < groups; group++) {
        const int8_t *here = codes + group * GROUP;
        UNROLL for (int part = 0; part < PARTS; part++) {
            VI dots[TILE], coarse[TILE];
            UNROLL for (int row = 0; row < rows; row++) {
                dots[row] = V_SET32(-shift * job->sums[(first + row) * groups + group]);
                coarse[row] = V_SET32(0);
            }
            for (int line = 0; line < lines; line++) {
                const uint8_t *at = weight + line * LINE + part * (LINE / PARTS);
                __builtin_prefetch(at + AHEAD);
                VI left = V_LOAD(at), right = left;
                if (kind != INT8) {
                    left = V_AND(left, low);
                    right = V_AND(V_RIGHT4(right), low);
                }
                if (kind == NF4) {
                    left = V_LOOK(table, left);
                    right = V_LOOK(table, right);
                }
                UNROLL for (int row = 0; row < rows; row++) {
                    const int8_t *code = here + row * terms * columns + 4 * line * halves;
                    if (terms == 2) {
                        coarse[row] = V_DOT(coarse[row], left, V_SET32(four(code)));
                        if (halves == 2)
                            coarse[row] = V_DOT(coarse[row], right, V_SET32(four(code + 4)));
                        code += columns;
                    }
                    dots[row] = V_DOT(dots[row], left, V_SET32(four(code)));
                    if (halves == 2) dots[row] = V_DOT(dots[row], right, V_SET32(four(code + 4)));
                }
            }
            VF step = V_HALF(scale + part * (PANEL / PARTS));
            VF level = kind == INT4 ? V_HALF(zero + part * (PANEL / PARTS)) : step;
            UNROLL for (int row = 0; row < rows; row++) {
                int64_t at = (first + row) * groups + group;
                VI dot = dots[row];
                if (terms == 2) dot = V_ADD(dot, V_TIMES(coarse[row], V_SET32(FINER)));
                VF sum = sums[row][part], worth = V_MUL(step, V_SETF(job->steps[at]));
                sum = V_FMA(V_FLOAT(dot), worth, sum);
                if (kind == INT4) sum = V_FMA(level, V_SETF(job->shares[at]), sum);
                sums[row][part] = sum;
            }
        }
        weight += lines * LINE;
        scale += PANEL;
        if (kind == INT4) zero += PANEL;
    }
    UNROLL for (int row = 0; row < rows; row++) {
        float whole[PANEL];
        UNROLL for (int part = 0; part < PARTS; part++)
            V_STORE(whole + part * (PANEL / PARTS), sums[row][part]);
        stored(job, panel, first + row, whole);
    }
}

TARGET static void NAME(pass)(const Job *job, int64_t panel, int64_t first, int rows) {
    FOR_ALL(NAME(body))
}

#undef NAME
#undef TARGET
#undef PARTS
#undef VI
#undef VF
#undef TABLE
#undef V_SET8
#undef V_SET32
#undef V_SETF
#undef V_ZERO
#undef V_LOAD
#undef V_AND
#undef V_RIGHT4
#undef V_LOOK
#undef V_DOT
#undef V_ADD
#undef V_TIMES
#undef V_FLOAT
#undef V_HALF
#undef V_MUL
#undef V_FMA
#undef V_STORE
