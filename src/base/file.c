#define _GNU_SOURCE
#include "base/file.h"

#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static mx_status io_error(const char *path, const char *what, mx_error *err)
{
    return mx_error_set(err, MX_ERR_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

/* Opens a regular file for reading and tells its size. */
static mx_status open_regular(const char *path, int *fd, size_t *size, mx_error *err)
{
    /* O_NONBLOCK: opening a FIFO must not hang. */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) {
        return io_error(path, "open", err);
    }
    struct stat info;
    mx_status status = MX_OK;
    if (fstat(*fd, &info) != 0) {
        status = io_error(path, "stat", err);
    } else if (!S_ISREG(info.st_mode)) {
        status = mx_error_set(err, MX_ERR_IO, "%s: not a regular file", path);
    } else {
        *size = (size_t)info.st_size;
    }
    if (status != MX_OK) {
        close(*fd);
    }
    return status;
}

mx_status mx_map_open(const char *path, mx_map *out, mx_error *err)
{
    *out = (mx_map){0};
    int fd;
    size_t size = 0;
    MX_TRY(open_regular(path, &fd, &size, err));
    mx_status status = MX_OK;
    if (size > 0) {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            status = io_error(path, "map", err);
        } else {
            *out = (mx_map){data, size};
        }
    }
    close(fd);
    return status;
}

void mx_map_close(mx_map *map)
{
    if (map->data != NULL) {
        munmap((void *)(uintptr_t)map->data, map->size);
    }
    *map = (mx_map){0};
}

void mx_map_drop(const mx_map *map, size_t offset, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (map->data == NULL || offset >= map->size || size > map->size - offset) {
        return;
    }
    /* Only pages that lie wholly inside: neighbours may still be needed. */
    size_t begin = (offset + page - 1) / page * page;
    size_t end = (offset + size) / page * page;
    if (begin < end) {
        madvise((void *)(uintptr_t)(map->data + begin), end - begin, MADV_DONTNEED);
    }
}

mx_status mx_file_read(const char *path, size_t limit, char **out, size_t *size, mx_error *err)
{
    *out = NULL;
    *size = 0;
    int fd;
    size_t length = 0;
    MX_TRY(open_regular(path, &fd, &length, err));
    mx_status status = MX_OK;
    char *text = NULL;
    if (length > limit) {
        status =
            mx_error_set(err, MX_ERR_FORMAT, "%s: %zu bytes are more than the %zu allowed here",
                         path, length, limit);
        goto done;
    }
    text = malloc(length + 1);
    if (text == NULL) {
        status = mx_error_nomem(err, path, length + 1);
        goto done;
    }
    size_t got = 0;
    while (got < length) {
        ssize_t n = read(fd, text + got, length - got);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            status = n < 0 ? io_error(path, "read", err)
                           : mx_error_set(err, MX_ERR_IO, "%s: became shorter while read", path);
            goto done;
        }
        got += (size_t)n;
    }
    text[length] = '\0';
    *out = text;
    *size = length;
    text = NULL;
done:
    free(text);
    close(fd);
    return status;
}

struct mx_atomic_file {
    int fd;
    char *path;      /* final name */
    char *temporary; /* name while written, in the same folder */
};

static void atomic_free(mx_atomic_file *file)
{
    if (file->fd >= 0) {
        close(file->fd);
    }
    free(file->path);
    free(file->temporary);
    free(file);
}

mx_status mx_atomic_open(const char *path, mx_atomic_file **out, mx_error *err)
{
    *out = NULL;
    mx_atomic_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return mx_error_nomem(err, path, sizeof *file);
    }
    file->fd = -1;
    mx_str name = {0};
    mx_str_addf(&name, "%s.tmp-XXXXXX", path);
    mx_status status;
    MX_TRY_GOTO(status, mx_str_take(&name, &file->temporary, err));
    file->path = mx_str_copy(path, strlen(path));
    if (file->path == NULL) {
        status = mx_error_nomem(err, path, strlen(path) + 1);
        goto done;
    }
    file->fd = mkostemp(file->temporary, O_CLOEXEC);
    if (file->fd < 0) {
        status = io_error(path, "create", err);
        goto done;
    }
    /* mkstemp makes 0600; an output follows the umask like any other file. */
    mode_t mask = umask(0);
    umask(mask);
    fchmod(file->fd, 0666 & ~mask);
    *out = file;
    file = NULL;
done:
    if (file != NULL) {
        atomic_free(file);
    }
    return status;
}

mx_status mx_atomic_write(mx_atomic_file *file, const void *data, size_t size, mx_error *err)
{
    const char *from = data;
    while (size > 0) {
        ssize_t n = write(file->fd, from, size);
        if (n < 0 && errno != EINTR) {
            return io_error(file->path, "write", err);
        }
        if (n > 0) {
            from += n;
            size -= (size_t)n;
        }
    }
    return MX_OK;
}

/* The folder of a path: everything before the last '/', or ".". */
static char *path_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return mx_str_copy(".", 1);
    }
    return mx_str_copy(path, slash == path ? 1 : (size_t)(slash - path));
}

mx_status mx_folder_sync(const char *dir, mx_error *err)
{
    mx_status status = MX_OK;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Some file systems refuse fsync of a folder (EINVAL): nothing to add then. */
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL)) {
        status = io_error(dir, "sync", err);
    }
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

mx_status mx_folder_sync_parent(const char *path, mx_error *err)
{
    char *parent = path_parent(path);
    if (parent == NULL) {
        return mx_error_nomem(err, path, strlen(path));
    }
    mx_status status = mx_folder_sync(parent, err);
    free(parent);
    return status;
}

mx_status mx_atomic_commit(mx_atomic_file *file, mx_error *err)
{
    mx_status status = MX_OK;
    if (fsync(file->fd) != 0 && errno != EINVAL) {
        status = io_error(file->path, "sync", err);
    } else if (rename(file->temporary, file->path) != 0) {
        status = io_error(file->path, "rename into place", err);
    }
    if (status != MX_OK) {
        mx_atomic_abort(file);
        return status;
    }
    status = mx_folder_sync_parent(file->path, err);
    atomic_free(file);
    return status;
}

void mx_atomic_abort(mx_atomic_file *file)
{
    if (file == NULL) {
        return;
    }
    unlink(file->temporary);
    atomic_free(file);
}

mx_status mx_file_write(const char *path, const void *data, size_t size, mx_error *err)
{
    mx_atomic_file *file;
    MX_TRY(mx_atomic_open(path, &file, err));
    mx_status status = mx_atomic_write(file, data, size, err);
    if (status != MX_OK) {
        mx_atomic_abort(file);
        return status;
    }
    return mx_atomic_commit(file, err);
}

bool mx_path_is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool mx_path_is_dir(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

mx_status mx_path_make_dirs(const char *path, mx_error *err)
{
    char *partial = mx_str_copy(path, strlen(path));
    if (partial == NULL) {
        return mx_error_nomem(err, path, strlen(path));
    }
    mx_status status = MX_OK;
    for (char *at = partial + 1;; at++) {
        char saved = *at;
        if (saved != '/' && saved != '\0') {
            continue;
        }
        *at = '\0';
        if (mkdir(partial, 0777) != 0 && !(errno == EEXIST && mx_path_is_dir(partial))) {
            status = io_error(partial, "create folder", err);
            break;
        }
        *at = saved;
        if (saved == '\0') {
            break;
        }
    }
    free(partial);
    return status;
}

char *mx_path_join(const char *dir, const char *name)
{
    size_t length = strlen(dir);
    const char *separator = length > 0 && dir[length - 1] == '/' ? "" : "/";
    mx_str path = {0};
    mx_str_addf(&path, "%s%s%s", dir, separator, name);
    char *out;
    return mx_str_take(&path, &out, NULL) == MX_OK ? out : NULL;
}

const char *mx_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}
