/*
 * Markdown tables with padded columns, as pytablewriter writes them: headers
 * centred, columns at least 3 wide.
 */
#ifndef MX_EVAL_MD_TABLE_H
#define MX_EVAL_MD_TABLE_H

#include "base/str.h"

#define MX_MD_MAX_COLUMNS 64

/* Set `columns` (1..MX_MD_MAX_COLUMNS), zero the rest. Cells are added row by
 * row, the headers first. */
typedef struct mx_md_table {
    size_t columns;
    char **cells; /* [count], owned */
    size_t count, capacity;
    bool right[MX_MD_MAX_COLUMNS]; /* columns aligned to the right */
    bool failed;                   /* out of memory; told by mx_md_table_render */
} mx_md_table;

/* Adds a cell; '|' is escaped and control characters become '?'. */
void mx_md_table_addf(mx_md_table *table, const char *fmt, ...) MX_PRINTF(2, 3);
/* Appends the table, a line a row, to `out`; the last row must be full. */
mx_status mx_md_table_render(const mx_md_table *table, mx_str *out, mx_error *err);
void mx_md_table_free(mx_md_table *table);

#endif
