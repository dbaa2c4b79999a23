#include "quant/method.h"

#include "base/str.h"

#include <string.h>

#define MX_METHOD(name) extern const mx_method mx_method_##name;
#include "quant/methods.def"
#undef MX_METHOD

static const mx_method *const methods[] = {
#define MX_METHOD(name) &mx_method_##name,
#include "quant/methods.def"
#undef MX_METHOD
};

/* Direct cast: mx_rtn_rows, tensor by tensor. */
const mx_method mx_method_rtn = {.name = "rtn"};

mx_status mx_method_find(const char *name, const mx_method **out, mx_error *err)
{
    *out = NULL;
    mx_str known = {0};
    for (size_t i = 0; i < MX_COUNT(methods); i++) {
        if (strcmp(methods[i]->name, name) == 0) {
            *out = methods[i];
        }
        mx_str_addf(&known, "%s%s", i > 0 ? ", " : "", methods[i]->name);
    }
    mx_status status = MX_OK;
    if (*out == NULL) {
        status = mx_error_set(err, MX_ERR_ARGUMENT, "method: unknown \"%s\"; known are %s", name,
                              known.failed ? "" : known.data);
    }
    mx_str_free(&known);
    return status;
}

int mx_method_offset(int i)
{
    int distance = (i + 1) / 2;
    return i % 2 == 1 ? -distance : distance;
}

void mx_method_pack(const mx_method_problem *problem, const uint8_t *plain, uint8_t *codes)
{
    size_t n = problem->n_cols, code_bytes = mx_row_code_bytes(problem->quant, n);
    for (size_t row = 0; row < problem->n_rows; row++) {
        mx_codes_pack(plain + row * n, n, problem->quant->format->bits, codes + row * code_bytes);
    }
}

mx_status mx_method_check_rounding(const mx_quant *quant, mx_error *err)
{
    if (quant->round == MX_ROUND_NEAREST || quant->round == MX_ROUND_EVEN) {
        return MX_OK;
    }
    return mx_error_set(err, MX_ERR_UNSUPPORTED,
                        "method: weights are rounded to the nearest value; round %s goes with rtn",
                        mx_round_name(quant->round));
}

/* 2^exponent of an E8M0 scale or its inverse: a normal double, made from its bits
 * because ldexp would take longer than the rounding. */
static double power_of_two(int exponent)
{
    uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint8_t mx_method_round(const mx_quant *quant, double w, uint8_t scale, double *value)
{
    const mx_format *format = quant->format;
    int exponent = (int)scale - MX_E8M0_BIAS;
    uint32_t code = format->encode(format, w * power_of_two(-exponent), quant->round, 0);
    *value = (double)format->decode(format, code) * power_of_two(exponent);
    return (uint8_t)code;
}

void mx_method_damped(const mx_method_problem *problem, double *h)
{
    size_t n = problem->n_cols;
    memcpy(h, problem->hessian, n * n * sizeof *h);
    double mean = 0;
    for (size_t i = 0; i < n; i++) {
        mean += h[i * n + i];
    }
    double damp = problem->settings.damp * mean / (double)n;
    for (size_t i = 0; i < n; i++) {
        h[i * n + i] = h[i * n + i] == 0 ? 1 : h[i * n + i] + damp;
    }
}
