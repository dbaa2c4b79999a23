/*
 * Folders as outputs. The model appears under its name by one rename, and what was
 * there before leaves by another: at no moment is there half a model under the name.
 */
#define _GNU_SOURCE
#include "io/export_folder.h"

#include "base/file.h"
#include "base/str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static mx_status io_error(const char *path, const char *what, mx_error *err)
{
    return mx_error_set(err, MX_ERR_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* lstat, not stat: a link is not a folder of ours, wherever it leads, and nothing is
 * ever removed through one. */
mx_status mx_folder_look(const char *path, mx_folder_facts *facts, mx_error *err)
{
    *facts = (mx_folder_facts){0};
    struct stat info;
    if (lstat(path, &info) != 0) {
        /* A missing parent too means that nothing is there yet. */
        return errno == ENOENT ? MX_OK : io_error(path, "stat", err);
    }
    facts->exists = true;
    facts->is_dir = S_ISDIR(info.st_mode);
    if (!facts->is_dir) {
        return MX_OK;
    }
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return io_error(path, "open folder", err);
    }
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (is_dots(entry->d_name)) {
            continue;
        }
        facts->n_entries++;
        if (fstatat(dirfd(folder), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISDIR(info.st_mode)) {
            facts->has_folders = true;
        }
    }
    closedir(folder);
    return MX_OK;
}

bool mx_folder_has(const char *dir, const char *name)
{
    char *path = mx_path_join(dir, name);
    struct stat info;
    bool found = path != NULL && lstat(path, &info) == 0;
    free(path);
    return found;
}

mx_status mx_folder_check_target(const char *dir, bool overwrite, mx_error *err)
{
    mx_folder_facts facts;
    MX_TRY(mx_folder_look(dir, &facts, err));
    if (!facts.exists || (facts.is_dir && facts.n_entries == 0)) {
        return MX_OK;
    }
    if (!facts.is_dir) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: exists and is not a folder", dir);
    }
    if (!overwrite) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: already exists; overwrite replaces it", dir);
    }
    /* Replacing removes every file in it: never those of a home folder. */
    if (facts.has_folders || !mx_folder_has(dir, "config.json")) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "%s: not a model directory (config.json and no subfolders), so not "
                            "overwritten",
                            dir);
    }
    return MX_OK;
}

static bool is_kept(const char *name, const char *const *keep, size_t n_keep)
{
    for (size_t i = 0; i < n_keep; i++) {
        if (strcmp(name, keep[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Files only (unlinkat without AT_REMOVEDIR): a subfolder stops it with an error. */
mx_status mx_folder_empty(const char *dir, const char *const *keep, size_t n_keep, mx_error *err)
{
    DIR *folder = opendir(dir);
    if (folder == NULL) {
        return io_error(dir, "open folder", err);
    }
    mx_status status = MX_OK;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (is_dots(entry->d_name) || is_kept(entry->d_name, keep, n_keep)) {
            continue;
        }
        if (unlinkat(dirfd(folder), entry->d_name, 0) != 0 && errno != ENOENT) {
            status = mx_error_set(err, MX_ERR_IO, "%s/%s: cannot remove: %s", dir, entry->d_name,
                                  strerror(errno));
            break;
        }
    }
    closedir(folder);
    return status;
}

mx_status mx_folder_remove_file(const char *dir, const char *name, mx_error *err)
{
    char *path = mx_path_join(dir, name);
    if (path == NULL) {
        return mx_error_nomem(err, dir, 0);
    }
    mx_status status = unlink(path) == 0 ? MX_OK : io_error(path, "remove", err);
    free(path);
    return status;
}

void mx_folder_remove(const char *dir)
{
    if (mx_folder_empty(dir, NULL, 0, NULL) == MX_OK) {
        rmdir(dir);
    }
}

/* The old model is renamed before it is removed: a crash in between leaves it whole
 * under NAME.replaced. */
mx_status mx_folder_replace(const char *from, const char *to, bool overwrite, mx_error *err)
{
    /* The target may have changed while the export ran. */
    MX_TRY(mx_folder_check_target(to, overwrite, err));
    mx_folder_facts facts;
    MX_TRY(mx_folder_look(to, &facts, err));
    mx_str name = {0};
    char *aside = NULL;
    mx_str_addf(&name, "%s.replaced", to);
    MX_TRY(mx_str_take(&name, &aside, err));
    mx_status status = MX_OK;
    bool moved = false;
    if (facts.n_entries > 0) {
        if (rename(to, aside) != 0) {
            status = io_error(aside, "move the old model to", err);
            goto done;
        }
        moved = true;
    }
    /* rename(2) itself replaces an empty folder. */
    if (rename(from, to) != 0) {
        status = io_error(to, "rename into place", err);
        if (moved && rename(aside, to) == 0) {
            moved = false;
        }
        goto done;
    }
    status = mx_folder_sync_parent(to, err);
    if (moved) {
        mx_folder_remove(aside);
    }
done:
    free(aside);
    return status;
}
