/* The public entry points that belong to no layer. */
#include "base/status.h"

#include <stdlib.h>

const char *mx_version(void)
{
    return MX_VERSION;
}

const char *mx_status_name(mx_status status)
{
    static const char *const names[] = {
        [MX_OK] = "ok",
        [MX_ERR_IO] = "input/output error",
        [MX_ERR_FORMAT] = "invalid data",
        [MX_ERR_UNSUPPORTED] = "unsupported",
        [MX_ERR_ARGUMENT] = "invalid argument",
        [MX_ERR_NOMEM] = "out of memory",
        [MX_ERR_CANCELLED] = "cancelled",
    };
    if ((unsigned)status >= MX_COUNT(names)) {
        return "unknown status";
    }
    return names[status];
}

void mx_string_free(char *text)
{
    free(text);
}
