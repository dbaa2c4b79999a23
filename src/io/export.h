/*
 * Writer of a checkpoint directory: safetensors (sharded when large), config and
 * tokenizer files, all or nothing.
 *
 * Everything is written into "DIR.partial" and the whole folder is renamed to
 * DIR at commit, after every file was synced: DIR never holds half a model. A
 * state file inside DIR.partial records the run's settings and every finished
 * tensor with its checksum, so that a run that was interrupted, by kill -9 too,
 * continues where it was and ends in the same bytes.
 */
#ifndef MX_IO_EXPORT_H
#define MX_IO_EXPORT_H

#include "base/json.h"
#include "io/safetensors.h"

/* Tensor bytes of one file; Hugging Face's tools split near 5 GB. */
#define MX_EXPORT_SHARD_BYTES 4500000000ull

typedef struct mx_export mx_export;

typedef struct mx_export_options {
    bool resume;          /* continue DIR.partial when it is there */
    bool overwrite;       /* replace a finished DIR, discard a DIR.partial */
    uint64_t shard_bytes; /* 0: MX_EXPORT_SHARD_BYTES */
} mx_export_options;

/*
 * Starts writing `dir`, whose tensors are `plans` [n_plans] (names and plans
 * outlive the export). In the files they lie largest element type first, so that
 * every tensor is aligned to its element, and otherwise in the order given.
 * `settings` is what decides the bytes to be written; resuming under other
 * settings is MX_ERR_ARGUMENT, as is an existing DIR or DIR.partial that
 * `options` does not speak about. A DIR that is replaced must look like a model
 * directory: config.json and no subfolders.
 */
mx_status mx_export_open(const char *dir, const mx_tensor_plan *plans, size_t n_plans,
                         const json_t *settings, const mx_export_options *options, mx_export **out,
                         mx_error *err);

/* True when tensor `index` was finished by an earlier run (its bytes have been
 * checked); `*note` (may be NULL) is what mx_export_end recorded, borrowed. */
bool mx_export_has(const mx_export *export, size_t index, const json_t **note);

/* Reads back a finished tensor's bytes, all `size` of them. */
mx_status mx_export_read(const mx_export *export, size_t index, void *out, size_t size,
                         mx_error *err);

/* Writes tensor `index`, in any order of tensors: begin, its bytes in pieces,
 * end. `note` (may be NULL) is kept in the state file, for reports. */
mx_status mx_export_begin(mx_export *export, size_t index, mx_error *err);
mx_status mx_export_write(mx_export *export, const void *data, size_t size, mx_error *err);
mx_status mx_export_end(mx_export *export, const json_t *note, mx_error *err);

/* A small file beside the tensors ("config.json"). */
mx_status mx_export_text(mx_export *export, const char *name, const void *data, size_t size,
                         mx_error *err);

/* Bytes of all files of tensors, headers included. */
uint64_t mx_export_bytes(const mx_export *export);

/* Syncs everything and gives the folder its name. Fails unless every tensor is
 * finished. The export remains to be closed. */
mx_status mx_export_commit(mx_export *export, mx_error *err);

/* Frees. Without a commit before, DIR.partial stays for a later resume when
 * `keep` is true and a tensor is finished, and is removed otherwise. Accepts
 * NULL. */
void mx_export_close(mx_export *export, bool keep);

#endif
