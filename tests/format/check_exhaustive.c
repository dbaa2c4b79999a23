/*
 * Every fp32 bit pattern through the scalar codecs of fp4_e2m1, fp6_e2m3 and
 * fp8_e4m3, against the search among decoded values of format_oracle.h:
 *   block    a block of that one element: scale and code of mx_row_encode
 *   element  the code of the row arithmetic under the fixed scale 2^0, for every
 *            value that such a block can hold
 *   formula  the code of format->encode under the fixed scale 2^0
 * `make check-exhaustive` runs it: element under even, nearest and floor, block
 * under even and nearest, formula under even. With --all: each under all three.
 */
#include "base/clock.h"
#include "base/team.h"
#include "format/block_plan.h"
#include "format_oracle.h"

#include <stdatomic.h>

enum { CHUNK = 1 << 12 };
#define CHUNKS ((UINT64_C(1) << 32) / CHUNK)

typedef enum check_path { PATH_BLOCK, PATH_ELEMENT, PATH_FORMULA } check_path;
static const char *const path_names[] = {"block", "element", "formula"};

typedef struct check {
    oracle values;
    mx_quant quant;
    check_path path;
    double powers[512]; /* 2^(i - 256) */
    atomic_ullong compared, wrong, chunks_done;
    double began, told;
} check;

/* One chunk: 4096 consecutive bit patterns. */
typedef struct chunk {
    float x[CHUNK];
    uint8_t codes[CHUNK], scales[CHUNK], packed[CHUNK];
} chunk;

/* ---- what is expected ------------------------------------------------------- */

/* Exponent of the binade of a finite x != 0. */
static int exponent_of(float x)
{
    int e;
    frexp(x, &e);
    return e - 1;
}

/* floor(log2 |x|) - emax as OCP 6.3 has it, on top of microxcaling's rule for 0. */
static int expected_scale(const check *c, float x)
{
    int e0 = (x == 0 ? -126 : exponent_of(x)) - c->values.largest_binade;
    return e0 < -127 ? -127 : e0;
}

typedef struct expectation {
    unsigned scale, code;
} expectation;

static expectation expect(const check *c, float x)
{
    if (!isfinite(x)) {
        return (expectation){255, 0};
    }
    int e0 = c->path == PATH_BLOCK ? expected_scale(c, x) : 0;
    double y = fabs((double)x) * c->powers[256 - e0];
    int below = oracle_below(&c->values, y, 0);
    int index = oracle_round(&c->values, y, below, c->quant.round, 0);
    return (expectation){(unsigned)(e0 + 127), oracle_code(&c->values, index, x < 0)};
}

static void report(check *c, const chunk *k, size_t i, expectation want)
{
    if (atomic_fetch_add(&c->wrong, 1) < 5) {
        fprintf(stderr, "\n%s %s %s: x %a gives scale %u code %u, not scale %u code %u\n",
                c->quant.format->name, mx_round_name(c->quant.round), path_names[c->path], k->x[i],
                k->scales[i], k->codes[i], want.scale, want.code);
    }
}

/*
 * Compares values [begin, end) of a chunk. Magnitudes ascend in a chunk, and the
 * expected scale, and under one scale the expected code, never descend with the
 * magnitude: where both ends expect the same, so does everything between. Every
 * computed value is compared all the same.
 */
static void compare(check *c, const chunk *k, size_t begin, size_t end)
{
    expectation first = expect(c, k->x[begin]), last = expect(c, k->x[end - 1]);
    if (first.scale != last.scale || first.code != last.code) {
        size_t middle = begin + (end - begin) / 2;
        compare(c, k, begin, middle);
        compare(c, k, middle, end);
        return;
    }
    unsigned differs = 0;
    for (size_t i = begin; i < end; i++) {
        differs |= (k->codes[i] ^ first.code) | (k->scales[i] ^ first.scale);
    }
    for (size_t i = begin; differs != 0 && i < end; i++) {
        if (k->codes[i] != first.code || k->scales[i] != first.scale) {
            report(c, k, i, first);
        }
    }
}

/* ---- what is computed ------------------------------------------------------- */

static size_t run_block(check *c, chunk *k)
{
    mx_row_encode(&c->quant, k->x, CHUNK, 0, k->packed, k->scales);
    mx_codes_unpack(k->packed, CHUNK, c->quant.format->bits, k->codes);
    return CHUNK;
}

/* Blocks of scale 2^0 hold values below 2^(emax + 1): chunks never straddle it. */
static size_t run_element(check *c, chunk *k)
{
    if (!(fabsf(k->x[0]) < c->powers[256 + c->values.largest_binade + 1])) {
        return 0;
    }
    mx_codec codec;
    mx_codec_init(c->quant.format, &codec);
    mx_block_encode_planned(&codec, &c->quant, (mx_block_plan){.scale = 127}, k->x, CHUNK, 0, 0,
                            k->codes);
    memset(k->scales, 127, CHUNK);
    return CHUNK;
}

static size_t run_formula(check *c, chunk *k)
{
    if (!isfinite(k->x[0])) { /* outside the contract of encode */
        return 0;
    }
    const mx_format *format = c->quant.format;
    for (size_t i = 0; i < CHUNK; i++) {
        k->codes[i] = (uint8_t)format->encode(format, k->x[i], c->quant.round, 0);
    }
    memset(k->scales, 127, CHUNK);
    return CHUNK;
}

static void check_chunk(check *c, uint64_t index, chunk *k)
{
    for (size_t i = 0; i < CHUNK; i++) {
        k->x[i] = oracle_bits_float((uint32_t)(index * CHUNK + i));
    }
    size_t n = c->path == PATH_BLOCK     ? run_block(c, k)
               : c->path == PATH_ELEMENT ? run_element(c, k)
                                         : run_formula(c, k);
    if (n > 0) {
        compare(c, k, 0, n);
    }
    atomic_fetch_add(&c->compared, n);
}

/* ---- the whole -------------------------------------------------------------- */

static void tell(check *c, uint64_t done)
{
    double now = mx_clock_seconds();
    if (now - c->told > 1 || done == CHUNKS) {
        c->told = now;
        fprintf(stderr, "\r%s %-7s %-7s %3.0f%% %6.1f s", c->quant.format->name,
                mx_round_name(c->quant.round), path_names[c->path],
                100 * (double)done / (double)CHUNKS, now - c->began);
    }
}

static void check_range(void *ctx, size_t begin, size_t end, int thread)
{
    check *c = ctx;
    chunk *k = malloc(sizeof *k);
    if (k == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    for (size_t i = begin; i < end; i++) {
        check_chunk(c, i, k);
    }
    free(k);
    uint64_t done = atomic_fetch_add(&c->chunks_done, end - begin) + (end - begin);
    if (thread == 0) {
        tell(c, done);
    }
}

/* Whether all was equal. */
static bool check_run(mx_team *team, const char *format, mx_round round, check_path path)
{
    static check c;
    c = (check){.values = oracle_make(mx_format_find(format)), .path = path};
    c.quant = (mx_quant){.format = c.values.format, .block = 1, .round = round};
    for (int i = 0; i < 512; i++) {
        c.powers[i] = ldexp(1, i - 256);
    }
    c.began = c.told = mx_clock_seconds();
    mx_team_for(team, CHUNKS, 256, check_range, &c);
    tell(&c, CHUNKS);
    fprintf(stderr, "\n");
    printf("%s %-7s %-7s %llu values, %llu wrong, %.1f s\n", format, mx_round_name(round),
           path_names[path], (unsigned long long)c.compared, (unsigned long long)c.wrong,
           mx_clock_seconds() - c.began);
    fflush(stdout);
    return c.wrong == 0;
}

int main(int argc, char **argv)
{
    static const char *const formats[] = {"fp4_e2m1", "fp6_e2m3", "fp8_e4m3"};
    static const mx_round rounds[] = {MX_ROUND_EVEN, MX_ROUND_NEAREST, MX_ROUND_FLOOR};
    bool all = argc > 1 && strcmp(argv[1], "--all") == 0;
    mx_team *team;
    mx_error err = {0};
    if (mx_team_create(0, &team, &err) != MX_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    double began = mx_clock_seconds();
    bool equal = true;
    for (size_t f = 0; f < MX_COUNT(formats); f++) {
        for (size_t r = 0; r < MX_COUNT(rounds); r++) {
            equal &= check_run(team, formats[f], rounds[r], PATH_ELEMENT);
            if (all || rounds[r] != MX_ROUND_FLOOR) {
                equal &= check_run(team, formats[f], rounds[r], PATH_BLOCK);
            }
            if (all || rounds[r] == MX_ROUND_EVEN) {
                equal &= check_run(team, formats[f], rounds[r], PATH_FORMULA);
            }
        }
    }
    mx_team_free(team);
    printf("%s in %.0f s\n", equal ? "all equal" : "NOT EQUAL", mx_clock_seconds() - began);
    return equal ? 0 : 1;
}
