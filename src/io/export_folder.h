/* Folders of an export: what may be replaced, and how; internal to export*.c. */
#ifndef MX_IO_EXPORT_FOLDER_H
#define MX_IO_EXPORT_FOLDER_H

#include "base/status.h"

/* What a path is, as far as replacing it is concerned. */
typedef struct mx_folder_facts {
    bool exists;      /* anything by that name, a dangling link included */
    bool is_dir;      /* a folder itself, not a link to one */
    size_t n_entries; /* in it, "." and ".." apart */
    bool has_folders; /* one of them is a folder */
} mx_folder_facts;

/* A path that does not exist is no error: `exists` says so. */
mx_status mx_folder_look(const char *path, mx_folder_facts *facts, mx_error *err);
/* True when the folder has an entry of that name, of any kind. */
bool mx_folder_has(const char *dir, const char *name);

/* MX_OK when `dir` may become an output: absent, an empty folder, or, with
 * `overwrite`, a model directory (config.json and no subfolders). */
mx_status mx_folder_check_target(const char *dir, bool overwrite, mx_error *err);

/* Removes the files in `dir` but for those named in `keep` [n_keep]. */
mx_status mx_folder_empty(const char *dir, const char *const *keep, size_t n_keep, mx_error *err);
mx_status mx_folder_remove_file(const char *dir, const char *name, mx_error *err);
/* Removes a folder of files, as far as it can. */
void mx_folder_remove(const char *dir);

/* Gives the folder `from` the name `to`, durably. A folder of that name is put
 * aside first when it is not empty (checked again as by check_target), and
 * removed afterwards; it is put back when `from` cannot be renamed. */
mx_status mx_folder_replace(const char *from, const char *to, bool overwrite, mx_error *err);

#endif
