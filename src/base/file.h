/*
 * Files: read-only maps, whole reads, and writes that appear atomically
 * (temporary name in the target folder, fsync, rename, fsync of the folder).
 */
#ifndef MX_BASE_FILE_H
#define MX_BASE_FILE_H

#include "base/status.h"

/* A read-only memory map of a whole regular file. An empty file maps to
 * data = NULL, size = 0. */
typedef struct mx_map {
    const uint8_t *data;
    size_t size;
} mx_map;

mx_status mx_map_open(const char *path, mx_map *out, mx_error *err);
void mx_map_close(mx_map *map); /* idempotent */

/* Tells the kernel that [offset, offset + size) will not be read again soon;
 * the pages leave the resident set. Only a hint: never fails. */
void mx_map_drop(const mx_map *map, size_t offset, size_t size);

/* Reads a whole file of at most `limit` bytes into malloc'd memory with a NUL
 * behind it; `*size` excludes the NUL. The caller frees with free(). */
mx_status mx_file_read(const char *path, size_t limit, char **out, size_t *size, mx_error *err);

/* An output file that appears under its name only at commit. */
typedef struct mx_atomic_file mx_atomic_file;

mx_status mx_atomic_open(const char *path, mx_atomic_file **out, mx_error *err);
mx_status mx_atomic_write(mx_atomic_file *file, const void *data, size_t size, mx_error *err);
/* Makes the file visible and durable; frees it on success and on failure. */
mx_status mx_atomic_commit(mx_atomic_file *file, mx_error *err);
/* Removes the temporary file and frees; accepts NULL. */
void mx_atomic_abort(mx_atomic_file *file);

/* mx_atomic_open + write + commit. */
mx_status mx_file_write(const char *path, const void *data, size_t size, mx_error *err);

bool mx_path_is_file(const char *path);
bool mx_path_is_dir(const char *path);
/* Creates a folder and its parents (mode 0777 & ~umask). */
mx_status mx_path_make_dirs(const char *path, mx_error *err);
/* Makes the names in a folder durable: a file's own fsync does not. */
mx_status mx_folder_sync(const char *dir, mx_error *err);
/* The same for the folder that holds `path`, after a rename to it. */
mx_status mx_folder_sync_parent(const char *path, mx_error *err);
/* "dir/name" in malloc'd memory, or NULL when out of memory. */
char *mx_path_join(const char *dir, const char *name);
/* The part after the last '/', never NULL; points into `path`. */
const char *mx_path_base(const char *path);

#endif
