#define _GNU_SOURCE
#include "io/export.h"

#include "base/file.h"
#include "base/str.h"
#include "io/export_folder.h"
#include "io/export_layout.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* The state file: one JSON object a line, the first for the run, then one for
 * every finished tensor, appended after its bytes. */
static const char state_name[] = ".mxlm-export-state";

enum {
    STATE_LIMIT = 1 << 28,  /* bytes of a state file that are believed */
    VERIFY_CHUNK = 1 << 20, /* bytes read at a time to check a tensor */
    NO_TENSOR = -1,
};

struct mx_export {
    char *dir;     /* final name, no slash at the end */
    char *partial; /* dir + ".partial" */
    mx_export_layout layout;
    int *fds;          /* [n_shards], -1 before they are open */
    int state_fd;      /* locked while the export lives */
    bool owns_partial; /* the folder is ours to remove */
    bool overwrite;
    bool *done;     /* [n_plans] */
    json_t **notes; /* [n_plans] */
    size_t n_done;
    int64_t current;  /* tensor being written, or NO_TENSOR */
    uint64_t written; /* its bytes so far */
    mx_checksum sum;  /* of them */
};

static mx_status io_error(const char *dir, const char *name, const char *what, mx_error *err)
{
    return mx_error_set(err, MX_ERR_IO, "%s/%s: cannot %s: %s", dir, name, what, strerror(errno));
}

static mx_status write_at(const mx_export *export, int fd, const char *name, uint64_t offset,
                          const void *data, size_t size, mx_error *err)
{
    const char *from = data;
    while (size > 0) {
        ssize_t n = pwrite(fd, from, size, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return io_error(export->partial, name, "write", err);
        }
        from += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return MX_OK;
}

/* Appends one JSON line to the state file in one write, so that an interrupted
 * run can tear at most the last line. */
static mx_status state_append(mx_export *export, const json_t *line, mx_error *err)
{
    mx_str text = {0};
    char *json = NULL;
    char *whole = NULL;
    MX_TRY(mx_json_dump(line, 0, &json, err));
    mx_str_add(&text, json);
    mx_str_add(&text, "\n");
    free(json);
    MX_TRY(mx_str_take(&text, &whole, err));
    off_t end = lseek(export->state_fd, 0, SEEK_END);
    mx_status status = end < 0 ? io_error(export->partial, state_name, "seek", err)
                               : write_at(export, export->state_fd, state_name, (uint64_t)end,
                                          whole, strlen(whole), err);
    free(whole);
    return status;
}

/* ---- resuming -------------------------------------------------------------- */

/* The run's own line: what was asked and where every byte will lie. */
static json_t *run_line(const mx_export *export, const json_t *settings)
{
    mx_checksum sum;
    mx_checksum_init(&sum);
    char text[32];
    for (uint32_t s = 0; s < export->layout.n_shards; s++) {
        const mx_export_shard *shard = &export->layout.shards[s];
        mx_checksum_update(&sum, shard->header, shard->header_size);
    }
    snprintf(text, sizeof text, "%016" PRIx64, mx_checksum_value(&sum));
    return json_pack("{s:s, s:O, s:s}", "mxlm", MX_VERSION, "settings", settings, "layout", text);
}

/* Names the first setting in which an interrupted run differs from this one. */
static mx_status settings_error(const mx_export *export, const json_t *old, const json_t *now,
                                mx_error *err)
{
    const char *key = "layout";
    const json_t *then = json_object_get(old, "settings");
    const char *name;
    json_t *value;
    if (!json_equal(json_object_get(old, "mxlm"), json_object_get(now, "mxlm"))) {
        key = "mxlm version";
    }
    json_object_foreach(json_object_get(now, "settings"), name, value)
    {
        if (!json_equal(json_object_get(then, name), value)) {
            key = name;
            break;
        }
    }
    return mx_error_set(err, MX_ERR_ARGUMENT,
                        "%s: %s: the interrupted run had other settings; repeat them or overwrite",
                        export->partial, key);
}

/* Reads a finished tensor's bytes back and compares their checksum. */
static bool verify_tensor(mx_export *export, size_t index, const char *expected, uint8_t *chunk)
{
    const mx_export_slot *slot = &export->layout.slots[index];
    mx_checksum sum;
    mx_checksum_init(&sum);
    for (uint64_t at = 0; at < slot->size;) {
        size_t want = slot->size - at < VERIFY_CHUNK ? (size_t)(slot->size - at) : VERIFY_CHUNK;
        ssize_t n = pread(export->fds[slot->shard], chunk, want, (off_t)(slot->offset + at));
        if (n <= 0) {
            return false;
        }
        mx_checksum_update(&sum, chunk, (size_t)n);
        at += (uint64_t)n;
    }
    char text[32];
    snprintf(text, sizeof text, "%016" PRIx64, mx_checksum_value(&sum));
    return strcmp(text, expected) == 0;
}

/* Takes over one line of the state file; false when it is not to be believed. */
static bool state_accept(mx_export *export, const json_t *line, size_t *cursor, uint8_t *chunk)
{
    const char *name = json_string_value(json_object_get(line, "tensor"));
    const char *sum = json_string_value(json_object_get(line, "checksum"));
    size_t n = export->layout.n_plans;
    if (name == NULL || sum == NULL) {
        return false;
    }
    /* Lines come in the order of writing, so the next name is nearly always the
     * one after the last. */
    for (size_t step = 0; step < n; step++) {
        size_t index = (*cursor + step) % n;
        if (strcmp(export->layout.plans[index].name, name) != 0) {
            continue;
        }
        *cursor = index + 1;
        if (!export->done[index] && verify_tensor(export, index, sum, chunk)) {
            export->done[index] = true;
            export->n_done++;
            export->notes[index] = json_incref(json_object_get(line, "note"));
            return true;
        }
        return false;
    }
    return false;
}

/*
 * Takes over what the state file says is finished, up to the first line that is
 * torn or whose bytes are not there (after a power cut, say), and cuts the file
 * behind the last good line. `text` is the whole state file.
 */
static mx_status state_replay(mx_export *export, const char *text, mx_error *err)
{
    uint8_t *chunk = malloc(VERIFY_CHUNK);
    if (chunk == NULL) {
        return mx_error_nomem(err, export->partial, VERIFY_CHUNK);
    }
    const char *line = strchr(text, '\n');
    line = line != NULL ? line + 1 : text;
    size_t cursor = 0;
    for (const char *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        json_t *object = NULL;
        bool good = mx_json_parse(line, (size_t)(end - line), state_name, &object, NULL) == MX_OK &&
                    state_accept(export, object, &cursor, chunk);
        json_decref(object);
        if (!good) {
            break;
        }
    }
    free(chunk);
    if (ftruncate(export->state_fd, line - text) != 0) {
        return io_error(export->partial, state_name, "truncate", err);
    }
    return MX_OK;
}

/*
 * Reads the state file of an interrupted run. `*text` is NULL when it holds no
 * whole first line: the run died before it wrote anything.
 */
static mx_status state_read(const mx_export *export, const json_t *run, char **text, mx_error *err)
{
    char *path = mx_path_join(export->partial, state_name);
    size_t size = 0;
    *text = NULL;
    if (path == NULL) {
        return mx_error_nomem(err, export->partial, 0);
    }
    mx_status status = mx_file_read(path, STATE_LIMIT, text, &size, err);
    if (status == MX_OK) {
        const char *end = strchr(*text, '\n');
        json_t *old = NULL;
        if (end == NULL) {
            free(*text);
            *text = NULL;
        } else {
            status = mx_json_parse(*text, (size_t)(end - *text), path, &old, err);
            if (status == MX_OK && !json_equal(old, run)) {
                status = settings_error(export, old, run, err);
            }
        }
        json_decref(old);
    }
    if (status != MX_OK) {
        free(*text);
        *text = NULL;
    }
    free(path);
    return status;
}

/* ---- opening --------------------------------------------------------------- */

/* Opens and locks the state file, so that two runs never write one folder. */
static mx_status state_open(mx_export *export, bool create, mx_error *err)
{
    char *path = mx_path_join(export->partial, state_name);
    if (path == NULL) {
        return mx_error_nomem(err, export->partial, 0);
    }
    export->state_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0666);
    int saved = errno;
    free(path);
    errno = saved;
    if (export->state_fd < 0) {
        return io_error(export->partial, state_name, create ? "create" : "open", err);
    }
    if (flock(export->state_fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: another run is writing it", export->partial);
    }
    return MX_OK;
}

/*
 * Makes DIR.partial, or enters the one that is there. `*text` receives the state
 * file of a run to be resumed, NULL for a fresh start.
 */
static mx_status enter_partial(mx_export *export, const json_t *run,
                               const mx_export_options *options, char **text, mx_error *err)
{
    *text = NULL;
    mx_folder_facts facts;
    MX_TRY(mx_folder_look(export->partial, &facts, err));
    if (!facts.exists) {
        MX_TRY(mx_path_make_dirs(export->partial, err));
    } else if (!facts.is_dir ||
               (facts.n_entries > 0 && !mx_folder_has(export->partial, state_name))) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "%s: exists and is not an interrupted run; remove it", export->partial);
    } else if (facts.n_entries > 0) {
        if (!options->resume && !options->overwrite) {
            return mx_error_set(err, MX_ERR_ARGUMENT,
                                "%s: holds an interrupted run; resume continues it, overwrite "
                                "discards it",
                                export->partial);
        }
        MX_TRY(state_open(export, false, err));
        if (options->resume) {
            MX_TRY(state_read(export, run, text, err));
        }
        /* What can be resumed is ours to remove only once it was taken over. */
        export->owns_partial = *text == NULL;
        return MX_OK;
    }
    export->owns_partial = true;
    return state_open(export, true, err);
}

/* Opens every shard at its final size with its header in place. */
static mx_status open_shards(mx_export *export, mx_error *err)
{
    const mx_export_layout *layout = &export->layout;
    for (uint32_t s = 0; s < layout->n_shards; s++) {
        const mx_export_shard *shard = &layout->shards[s];
        char *path = mx_path_join(export->partial, shard->name);
        if (path == NULL) {
            return mx_error_nomem(err, export->partial, 0);
        }
        export->fds[s] = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        int saved = errno;
        free(path);
        errno = saved;
        if (export->fds[s] < 0) {
            return io_error(export->partial, shard->name, "create", err);
        }
        if (ftruncate(export->fds[s], (off_t)(shard->header_size + shard->data_size)) != 0) {
            return io_error(export->partial, shard->name, "size", err);
        }
        MX_TRY(write_at(export, export->fds[s], shard->name, 0, shard->header, shard->header_size,
                        err));
    }
    return MX_OK;
}

/* Removes what an interrupted run left beside the shards and the state file
 * (half-written small files): the result must be a fresh run's, name by name. */
static mx_status remove_leftovers(const mx_export *export, bool fresh, mx_error *err)
{
    const mx_export_layout *layout = &export->layout;
    size_t n_keep = fresh ? 0 : layout->n_shards;
    const char **keep = calloc(n_keep + 1, sizeof *keep);
    if (keep == NULL) {
        return mx_error_nomem(err, export->partial, (n_keep + 1) * sizeof *keep);
    }
    keep[0] = state_name;
    for (size_t s = 0; s < n_keep; s++) {
        keep[s + 1] = layout->shards[s].name;
    }
    mx_status status = mx_folder_empty(export->partial, keep, n_keep + 1, err);
    free(keep);
    return status;
}

static mx_status export_alloc(mx_export *export, const char *dir, mx_error *err)
{
    size_t length = strlen(dir);
    while (length > 1 && dir[length - 1] == '/') {
        length--;
    }
    export->dir = mx_str_copy(dir, length);
    mx_str partial = {0};
    mx_str_add_bytes(&partial, dir, length);
    mx_str_add(&partial, ".partial");
    MX_TRY(mx_str_take(&partial, &export->partial, err));
    size_t n = export->layout.n_plans + 1, shards = export->layout.n_shards;
    export->done = calloc(n, sizeof *export->done);
    export->notes = calloc(n, sizeof *export->notes);
    export->fds = malloc(shards * sizeof *export->fds);
    if (export->dir == NULL || export->done == NULL || export->notes == NULL ||
        export->fds == NULL) {
        return mx_error_nomem(err, dir, n * sizeof *export->notes);
    }
    memset(export->fds, -1, shards * sizeof *export->fds);
    return MX_OK;
}

static mx_status export_start(mx_export *export, const json_t *settings,
                              const mx_export_options *options, mx_error *err)
{
    char *text = NULL;
    json_t *run = run_line(export, settings);
    mx_status status;
    if (run == NULL) {
        return mx_error_nomem(err, export->partial, 0);
    }
    MX_TRY_GOTO(status, mx_folder_check_target(export->dir, export->overwrite, err));
    MX_TRY_GOTO(status, enter_partial(export, run, options, &text, err));
    MX_TRY_GOTO(status, remove_leftovers(export, text == NULL, err));
    MX_TRY_GOTO(status, open_shards(export, err));
    if (text != NULL) {
        status = state_replay(export, text, err);
        export->owns_partial = status == MX_OK;
    } else if (ftruncate(export->state_fd, 0) != 0) {
        status = io_error(export->partial, state_name, "truncate", err);
    } else {
        status = state_append(export, run, err);
    }
done:
    free(text);
    json_decref(run);
    return status;
}

mx_status mx_export_open(const char *dir, const mx_tensor_plan *plans, size_t n_plans,
                         const json_t *settings, const mx_export_options *options, mx_export **out,
                         mx_error *err)
{
    *out = NULL;
    uint64_t shard_bytes = options->shard_bytes != 0 ? options->shard_bytes : MX_EXPORT_SHARD_BYTES;
    if (dir[0] == '\0') {
        return mx_error_set(err, MX_ERR_ARGUMENT, "the output directory has no name");
    }
    mx_export *export = calloc(1, sizeof *export);
    if (export == NULL) {
        return mx_error_nomem(err, dir, sizeof *export);
    }
    export->state_fd = -1;
    export->current = NO_TENSOR;
    export->overwrite = options->overwrite;
    mx_status status = mx_export_layout_init(&export->layout, plans, n_plans, shard_bytes, err);
    if (status == MX_OK) {
        status = export_alloc(export, dir, err);
    }
    if (status == MX_OK) {
        status = export_start(export, settings, options, err);
    }
    if (status != MX_OK) {
        /* An interrupted run that was refused stays as it was. */
        mx_export_close(export, true);
        return status;
    }
    *out = export;
    return MX_OK;
}

/* ---- writing --------------------------------------------------------------- */

bool mx_export_has(const mx_export *export, size_t index, const json_t **note)
{
    if (note != NULL) {
        *note = export->notes[index];
    }
    return export->done[index];
}

mx_status mx_export_read(const mx_export *export, size_t index, void *out, size_t size,
                         mx_error *err)
{
    const mx_export_slot *slot = &export->layout.slots[index];
    if (!export->done[index] || size != slot->size) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: tensor %zu read out of turn",
                            export->partial, index);
    }
    for (size_t at = 0; at < size;) {
        ssize_t n = pread(export->fds[slot->shard], (char *)out + at, size - at,
                          (off_t)(slot->offset + at));
        const char *shard = export->layout.shards[slot->shard].name;
        if (n < 0 && errno != EINTR) {
            return io_error(export->partial, shard, "read", err);
        }
        if (n == 0) {
            return mx_error_set(err, MX_ERR_IO, "%s: %s: ends within tensor %zu", export->partial,
                                shard, index);
        }
        at += n > 0 ? (size_t)n : 0;
    }
    return MX_OK;
}

mx_status mx_export_begin(mx_export *export, size_t index, mx_error *err)
{
    if (export->current != NO_TENSOR || index >= export->layout.n_plans || export->done[index]) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: tensor %zu begun out of turn",
                            export->partial, index);
    }
    export->current = (int64_t)index;
    export->written = 0;
    mx_checksum_init(&export->sum);
    return MX_OK;
}

mx_status mx_export_write(mx_export *export, const void *data, size_t size, mx_error *err)
{
    if (export->current == NO_TENSOR) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: bytes without a tensor", export->partial);
    }
    const mx_export_slot *slot = &export->layout.slots[export->current];
    if (size > slot->size - export->written) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: %s: more bytes than planned",
                            export->partial, export->layout.plans[export->current].name);
    }
    MX_TRY(write_at(export, export->fds[slot->shard], export->layout.shards[slot->shard].name,
                    slot->offset + export->written, data, size, err));
    mx_checksum_update(&export->sum, data, size);
    export->written += size;
    return MX_OK;
}

mx_status mx_export_end(mx_export *export, const json_t *note, mx_error *err)
{
    size_t index = (size_t) export->current;
    if (export->current == NO_TENSOR || export->written != export->layout.slots[index].size) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: a tensor ended before its last byte",
                            export->partial);
    }
    char sum[32];
    snprintf(sum, sizeof sum, "%016" PRIx64, mx_checksum_value(&export->sum));
    json_t *line = json_pack("{s:s, s:I, s:s}", "tensor", export->layout.plans[index].name, "bytes",
                             (json_int_t) export->written, "checksum", sum);
    if (note != NULL) {
        json_object_set_new(line, "note", json_deep_copy(note));
    }
    mx_status status =
        line != NULL ? state_append(export, line, err) : mx_error_nomem(err, export->partial, 0);
    json_decref(line);
    if (status == MX_OK) {
        export->done[index] = true;
        export->notes[index] = note != NULL ? json_deep_copy(note) : NULL;
        export->n_done++;
        export->current = NO_TENSOR;
    }
    return status;
}

mx_status mx_export_text(mx_export *export, const char *name, const void *data, size_t size,
                         mx_error *err)
{
    char *path = mx_path_join(export->partial, name);
    if (path == NULL) {
        return mx_error_nomem(err, export->partial, 0);
    }
    mx_status status = mx_file_write(path, data, size, err);
    free(path);
    return status;
}

uint64_t mx_export_bytes(const mx_export *export)
{
    uint64_t bytes = 0;
    for (uint32_t s = 0; s < export->layout.n_shards; s++) {
        bytes += export->layout.shards[s].header_size + export->layout.shards[s].data_size;
    }
    return bytes;
}

/* ---- finishing ------------------------------------------------------------- */

static mx_status write_index(mx_export *export, mx_error *err)
{
    if (export->layout.n_shards == 1) {
        return MX_OK;
    }
    json_t *index = NULL;
    char *text = NULL;
    MX_TRY(mx_export_layout_index(&export->layout, &index, err));
    mx_status status = mx_json_dump(index, 2, &text, err);
    if (status == MX_OK) {
        status = mx_export_text(export, "model.safetensors.index.json", text, strlen(text), err);
    }
    free(text);
    json_decref(index);
    return status;
}

mx_status mx_export_commit(mx_export *export, mx_error *err)
{
    if (export->n_done != export->layout.n_plans) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: %zu of %zu tensors are not written",
                            export->partial, export->layout.n_plans - export->n_done,
                            export->layout.n_plans);
    }
    MX_TRY(write_index(export, err));
    for (uint32_t s = 0; s < export->layout.n_shards; s++) {
        if (fsync(export->fds[s]) != 0 && errno != EINVAL) {
            return io_error(export->partial, export->layout.shards[s].name, "sync", err);
        }
    }
    MX_TRY(mx_folder_sync(export->partial, err));
    MX_TRY(mx_folder_replace(export->partial, export->dir, export->overwrite, err));
    export->owns_partial = false;
    /* The state file goes last: a crash before this line leaves a whole model
     * with one file too many, never a folder that nothing can continue. */
    return mx_folder_remove_file(export->dir, state_name, err);
}

void mx_export_close(mx_export *export, bool keep)
{
    if (export == NULL) {
        return;
    }
    if (export->owns_partial && !(keep && export->n_done > 0)) {
        mx_folder_remove(export->partial);
    }
    for (uint32_t s = 0; export->fds != NULL && s < export->layout.n_shards; s++) {
        if (export->fds[s] >= 0) {
            close(export->fds[s]);
        }
    }
    for (size_t i = 0; export->notes != NULL && i < export->layout.n_plans; i++) {
        json_decref(export->notes[i]);
    }
    if (export->state_fd >= 0) {
        close(export->state_fd); /* releases the lock */
    }
    mx_export_layout_clear(&export->layout);
    free(export->fds);
    free(export->notes);
    free(export->done);
    free(export->partial);
    free(export->dir);
    free(export);
}
