#define _GNU_SOURCE
#include "quant/spill.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A file of `size` bytes without a name. Its blocks are reserved now: a full disk
 * is an error here rather than a signal later. */
static mx_status nameless_file(const char *dir, size_t size, int *out, mx_error *err)
{
    char *path = mx_path_join(dir, ".mxlm-spill-XXXXXX");
    if (path == NULL) {
        return mx_error_nomem(err, dir, 0);
    }
    *out = mkostemp(path, O_CLOEXEC);
    int code = errno;
    if (*out >= 0) {
        unlink(path);
        code = posix_fallocate(*out, 0, (off_t)size);
    }
    free(path);
    if (*out >= 0 && code == 0) {
        return MX_OK;
    }
    if (*out >= 0) {
        close(*out);
    }
    return mx_error_set(err, MX_ERR_IO, "%s: no room for %zu MB of hidden states: %s", dir,
                        size >> 20, strerror(code));
}

mx_status mx_spill_open(size_t size, size_t limit, const char *dir, mx_spill *out, mx_error *err)
{
    *out = (mx_spill){.size = size, .in_file = size > limit};
    int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (out->in_file) {
        MX_TRY(nameless_file(dir, size, &fd, err));
        flags = MAP_SHARED;
    }
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (fd >= 0) {
        close(fd);
    }
    if (data == MAP_FAILED) {
        *out = (mx_spill){0};
        return mx_error_nomem(err, "hidden states", size);
    }
    out->data = data;
    return MX_OK;
}

void mx_spill_close(mx_spill *spill)
{
    if (spill->data != NULL) {
        munmap(spill->data, spill->size);
    }
    *spill = (mx_spill){0};
}
