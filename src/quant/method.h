/*
 * Methods of choosing the codes of a weight matrix on its MX grid. A new method
 * is one file (method_NAME.c, which defines `const mx_method mx_method_NAME`) and
 * one line in methods.def.
 */
#ifndef MX_QUANT_METHOD_H
#define MX_QUANT_METHOD_H

#include "base/json.h"
#include "base/team.h"
#include "format/block.h"

/* What a method can be told. */
typedef struct mx_method_settings {
    int search_range;    /* exponents tried: the rule's and up to this many beside it */
    double damp;         /* of the Hessian's diagonal, as a share of its mean */
    double correct;      /* share of the earlier layers' error that the target undoes */
    int passes;          /* of descent.h over the codes chosen first */
    uint32_t iterations; /* of training a layer */
} mx_method_settings;

/*
 * One matrix W [n_rows][n_cols] and what is known of its inputs: x^ is the input
 * as the quantized model will see it (quantized prefix, quantized activations), x
 * the unquantized model's, E the mean over the calibration tokens.
 */
typedef struct mx_method_problem {
    const mx_quant *quant; /* a scaled format */
    size_t n_rows, n_cols;
    const float *weights;   /* [n_rows][n_cols], finite */
    const double *hessian;  /* [n_cols][n_cols]: E x^ x^^T */
    const double *cross;    /* [n_cols][n_cols]: E x x^^T; NULL: not corrected */
    const double *residual; /* [n_rows][n_cols]: E r x^^T, r what the residual stream lacks
                               of the unquantized model's; NULL: not added to it */
    mx_method_settings settings;
    mx_team *team;
    const char *name; /* of the matrix, for messages */
} mx_method_problem;

/* Packed codes [n_rows][mx_row_code_bytes] and scales [n_rows][mx_row_scale_count]
 * of a problem; never a NaN scale. The same bits for any team. */
typedef mx_status (*mx_method_fn)(const mx_method_problem *problem, uint8_t *codes, uint8_t *scales,
                                  mx_error *err);

/* Improves the codes of a layer (refine.h) in place. The same bits for any team. */
typedef struct mx_refine_problem mx_refine_problem;
typedef mx_status (*mx_refine_fn)(const mx_refine_problem *problem, mx_error *err);

typedef struct mx_method {
    const char *name;
    mx_method_fn quantize; /* NULL: round to nearest, without calibration (rtn.c) */
    mx_refine_fn refine;   /* after all of a layer were quantized; may be NULL */
    bool corrects;         /* its target makes up for the earlier layers' errors */
    /* Adds the settings that matter to the record in the checkpoint; may be NULL. */
    void (*describe)(const mx_method_settings *settings, json_t *object);
} mx_method;

extern const mx_method mx_method_gptq; /* whose codes others start from */

/* By name; an unknown one is MX_ERR_ARGUMENT and the message lists them all. */
mx_status mx_method_find(const char *name, const mx_method **out, mx_error *err);

/* ---- what methods share ------------------------------------------------------ */

/* Exponents are searched outwards: 0, -1, +1, -2, +2 ... so that a tie keeps the
 * one nearest to the rule's. Step `i` of 2 range + 1. */
int mx_method_offset(int i);

/* Codes [n_rows][n_cols], one a byte, as a problem's packed ones. */
void mx_method_pack(const mx_method_problem *problem, const uint8_t *plain, uint8_t *codes);

/* Rounding that depends on nothing but the value, toward the nearest. */
mx_status mx_method_check_rounding(const mx_quant *quant, mx_error *err);

/* One element at scale byte `scale`: its code, and its value in `*value`. */
uint8_t mx_method_round(const mx_quant *quant, double w, uint8_t scale, double *value);

/*
 * h [n_cols][n_cols] = the problem's Hessian with damping: its settings' share of
 * the diagonal's mean is added to the diagonal, and dead inputs (never but zero)
 * get a diagonal of one.
 */
void mx_method_damped(const mx_method_problem *problem, double *h);

#endif
