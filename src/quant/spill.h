/* Large scratch memory: anonymous up to a limit, beyond it an unlinked temporary
 * file, whose pages the system can write out. */
#ifndef MX_QUANT_SPILL_H
#define MX_QUANT_SPILL_H

#include "base/status.h"

#define MX_SPILL_LIMIT ((size_t)1 << 30)

typedef struct mx_spill {
    void *data;
    size_t size;
    bool in_file;
} mx_spill;

/* `size` > 0 zero bytes; more than `limit` of them lie in a file in folder `dir`. */
mx_status mx_spill_open(size_t size, size_t limit, const char *dir, mx_spill *out, mx_error *err);
void mx_spill_close(mx_spill *spill); /* idempotent */

#endif
