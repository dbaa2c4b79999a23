#include "backend/backend.h"

mx_status mx_backend_init(mx_backend *backend, int threads, mx_error *err)
{
    *backend = (mx_backend){0};
    MX_TRY(mx_cpu_flags(&backend->cpu_flags, err));
    mx_kernels_init(backend->cpu_flags, &backend->kernels);
    return mx_team_create(threads, &backend->team, err);
}

void mx_backend_clear(mx_backend *backend)
{
    mx_team_free(backend->team);
    *backend = (mx_backend){0};
}
