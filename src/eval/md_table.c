/* Markdown tables, padded so that they also read as plain text. Cells may hold text
 * from files (names of models, tasks): it must not break out of its cell. */
#include "eval/md_table.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Display width of UTF-8 text whose characters are one column each. */
static size_t cell_width(const char *text)
{
    size_t width = 0;
    for (; *text != '\0'; text++) {
        width += ((unsigned char)*text & 0xC0) != 0x80;
    }
    return width;
}

/* A copy that stays inside its cell. */
static char *cell_escape(const char *text)
{
    mx_str str = {0};
    char *out = NULL;
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '|') {
            mx_str_add(&str, "\\|");
        } else {
            char plain = c < 0x20 || c == 0x7F ? '?' : *text;
            mx_str_add_bytes(&str, &plain, 1);
        }
    }
    return mx_str_take(&str, &out, NULL) == MX_OK ? out : NULL;
}

/* Takes over `cell`, NULL (out of memory) included. */
static void table_push(mx_md_table *table, char *cell)
{
    if (cell != NULL && table->count == table->capacity) {
        size_t capacity = table->capacity > 0 ? table->capacity * 2 : 64;
        char **cells = realloc(table->cells, capacity * sizeof *cells);
        if (cells != NULL) {
            table->cells = cells;
            table->capacity = capacity;
        }
    }
    if (cell == NULL || table->count == table->capacity) {
        table->failed = true;
        free(cell);
        return;
    }
    table->cells[table->count++] = cell;
}

void mx_md_table_addf(mx_md_table *table, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *text = length >= 0 ? malloc((size_t)length + 1) : NULL;
    if (text == NULL) {
        table->failed = true;
        return;
    }
    va_start(args, fmt);
    vsnprintf(text, (size_t)length + 1, fmt, args);
    va_end(args);
    table_push(table, cell_escape(text));
    free(text);
}

static void pad(mx_str *out, size_t n, char c)
{
    while (n-- > 0) {
        mx_str_add_bytes(out, &c, 1);
    }
}

/* One line; headers are centred, the odd space on the right. */
static void render_row(const mx_md_table *table, size_t row, const size_t *widths, mx_str *out)
{
    for (size_t c = 0; c < table->columns; c++) {
        const char *cell = table->cells[row * table->columns + c];
        size_t space = widths[c] - cell_width(cell);
        size_t left = row == 0 ? space / 2 : table->right[c] ? space : 0;
        mx_str_add(out, "|");
        pad(out, left, ' ');
        mx_str_add(out, cell);
        pad(out, space - left, ' ');
    }
    mx_str_add(out, "|\n");
}

/* Cells are three characters wide at least: Markdown wants three dashes. */
mx_status mx_md_table_render(const mx_md_table *table, mx_str *out, mx_error *err)
{
    size_t widths[MX_MD_MAX_COLUMNS];
    assert(table->columns >= 1 && table->columns <= MX_MD_MAX_COLUMNS);
    if (table->failed) {
        return mx_error_nomem(err, "table", table->count);
    }
    assert(table->count > 0 && table->count % table->columns == 0);
    for (size_t c = 0; c < table->columns; c++) {
        widths[c] = 3;
        for (size_t i = c; i < table->count; i += table->columns) {
            size_t width = cell_width(table->cells[i]);
            widths[c] = width > widths[c] ? width : widths[c];
        }
    }
    for (size_t row = 0; row < table->count / table->columns; row++) {
        render_row(table, row, widths, out);
        for (size_t c = 0; row == 0 && c < table->columns; c++) {
            mx_str_add(out, "|");
            pad(out, widths[c] - table->right[c], '-');
            mx_str_add(out, table->right[c] ? ":" : "");
        }
        mx_str_add(out, row == 0 ? "|\n" : "");
    }
    return out->failed ? mx_error_nomem(err, "table", table->count) : MX_OK;
}

void mx_md_table_free(mx_md_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        free(table->cells[i]);
    }
    free(table->cells);
    *table = (mx_md_table){0};
}
