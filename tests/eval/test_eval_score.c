/* How documents are batched, and what stops a run. */
#include "eval_fixture.h"

enum { COUNT = 300 };

/* Documents of random lengths over one pool; lengths in tokens fed. */
static void make_documents(mx_document_list *list, uint32_t shortest, uint32_t longest)
{
    mx_error err = {0};
    uint32_t state = 12345;
    *list = (mx_document_list){0};
    for (int32_t i = 0; i < (int32_t)longest + COUNT + 1; i++) {
        int32_t id = (i * 7919) % 1000;
        fixture_ok(mx_document_list_add_tokens(list, &id, 1, &err), err);
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        state = state * 1664525u + 1013904223u;
        uint32_t length = shortest + (state >> 8) % (longest - shortest + 1);
        mx_document document = {.first = i,
                                .n_tokens = length + 1,
                                .n_targets = 1 + (state >> 20) % length,
                                .index = i};
        fixture_ok(mx_document_list_add(list, &document, &err), err);
    }
    mx_document_list_finish(list);
}

/* What a watch and a sink have seen. */
typedef struct witness {
    uint64_t reports, last_done, last_work, total, work_total;
    uint64_t stop_after; /* reports; 0: never */
    size_t finished;
    const mx_document_list *list;
    bool seen[COUNT];
} witness;

static bool watch_progress(void *ctx, const mx_progress *progress)
{
    witness *w = ctx;
    assert_string_equal(progress->stage, "test");
    assert_string_equal(progress->unit, "documents");
    assert_string_equal(progress->work_unit, "tokens");
    assert_true(progress->done >= w->last_done);
    assert_true(progress->work_done >= w->last_work);
    assert_true(progress->seconds >= 0);
    w->last_done = progress->done;
    w->last_work = progress->work_done;
    w->total = progress->total;
    w->work_total = progress->work_total;
    w->reports++;
    return w->stop_after == 0 || w->reports < w->stop_after;
}

static mx_status note_done(void *ctx, const mx_document *document, const mx_outcome *outcome,
                           mx_error *err)
{
    (void)err;
    witness *w = ctx;
    assert_ptr_equal(document, &w->list->items[document->index]);
    assert_false(w->seen[document->index]);
    assert_true(outcome->done);
    w->seen[document->index] = true;
    w->finished++;
    return MX_OK;
}

static void check_outcomes(const mx_document_list *list, const mx_outcome *outcomes)
{
    for (size_t i = 0; i < list->count; i++) {
        mx_outcome wanted = fixture_outcome(&list->items[i], 0);
        assert_true(outcomes[i].done);
        assert_true(outcomes[i].log_likelihood == wanted.log_likelihood);
        assert_true(outcomes[i].greedy == wanted.greedy);
    }
}

static void check_batching(const mx_document_list *list, uint32_t batch_size, size_t skip)
{
    mx_outcome outcomes[COUNT] = {0};
    fixture_scorer fake = {0};
    mx_scorer scorer = fixture_scorer_view(&fake);
    witness seen = {.list = list};
    mx_score_work work;
    mx_error err = {0};
    uint64_t tokens = 0;
    for (size_t i = 0; i < COUNT; i++) {
        if (i < skip) {
            outcomes[i] = fixture_outcome(&list->items[i], 0);
            outcomes[i].done = true;
        } else {
            tokens += list->items[i].n_tokens - 1;
        }
    }
    fixture_ok(mx_score_documents(&scorer, list, batch_size, "test",
                                  (mx_watch){.fn = watch_progress, .ctx = &seen}, note_done, &seen,
                                  outcomes, &work, &err),
               err);
    check_outcomes(list, outcomes);
    assert_int_equal(fake.n_documents, COUNT - skip);
    assert_int_equal(seen.finished, COUNT - skip);
    assert_int_equal(work.tokens, tokens);
    assert_int_equal(seen.last_work, tokens);
    assert_int_equal(seen.work_total, tokens);
    assert_int_equal(seen.last_done, COUNT);
    assert_int_equal(seen.total, COUNT);
    assert_int_equal(fake.n_prepared, skip < COUNT ? 1 : 0);
    assert_true(fake.largest_batch <= (batch_size > 0 ? batch_size : 32));
}

static void test_batching(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {0, 1, 7, 32, 1000};
    mx_document_list list;
    make_documents(&list, 1, 90);
    for (size_t i = 0; i < MX_COUNT(sizes); i++) {
        check_batching(&list, sizes[i], 0);
    }
    check_batching(&list, 7, 123);
    mx_document_list_free(&list);
}

/* A list with a scorer over it; freed by rig_free. */
typedef struct rig {
    mx_document_list list;
    mx_outcome outcomes[COUNT];
    fixture_scorer fake;
    mx_scorer scorer; /* over `fake` */
    mx_score_work work;
    mx_error err;
} rig;

static rig *rig_new(uint32_t shortest, uint32_t longest)
{
    rig *r = calloc(1, sizeof *r);
    assert_non_null(r);
    make_documents(&r->list, shortest, longest);
    r->scorer = fixture_scorer_view(&r->fake);
    return r;
}

/* `seen` may be NULL: nobody watches. */
static mx_status rig_score(rig *r, uint32_t batch_size, witness *seen)
{
    mx_watch watch = {.fn = seen != NULL ? watch_progress : NULL, .ctx = seen};
    return mx_score_documents(&r->scorer, &r->list, batch_size, "test", watch,
                              seen != NULL ? note_done : NULL, seen, r->outcomes, &r->work,
                              &r->err);
}

static void rig_free(rig *r)
{
    mx_document_list_free(&r->list);
    free(r);
}

/* Everything is done already: nothing is prepared or scored. */
static void test_all_done(void **state)
{
    (void)state;
    rig *r = rig_new(1, 10);
    r->work.tokens = 1;
    for (size_t i = 0; i < COUNT; i++) {
        r->outcomes[i].done = true;
    }
    fixture_ok(rig_score(r, 8, NULL), r->err);
    assert_int_equal(r->fake.n_prepared, 0);
    assert_int_equal(r->work.tokens, 0);
    rig_free(r);
}

/* Long documents share a pass only within the token budget; one that exceeds it
 * goes alone. */
static void test_budget(void **state)
{
    (void)state;
    rig *r = rig_new(400, 5000);
    fixture_ok(rig_score(r, 64, NULL), r->err);
    check_outcomes(&r->list, r->outcomes);
    assert_in_range(r->fake.largest_batch, 2, 5); /* 2048 / 400 */
    assert_int_equal(r->fake.limits.max_tokens, r->fake.limits.max_context);
    assert_int_equal(r->fake.largest_tokens, r->fake.limits.max_context);
    rig_free(r);
}

static void test_cancel(void **state)
{
    (void)state;
    rig *r = rig_new(1, 90);
    witness seen = {.list = &r->list, .stop_after = 4};
    size_t done = 0;
    assert_int_equal(rig_score(r, 10, &seen), MX_ERR_CANCELLED);
    assert_int_equal(seen.finished, 30);
    for (size_t i = 0; i < COUNT; i++) {
        assert_true(r->outcomes[i].done == seen.seen[i]);
        done += r->outcomes[i].done;
    }
    assert_int_equal(done, 30);
    rig_free(r);
}

static void test_not_finite(void **state)
{
    (void)state;
    rig *r = rig_new(1, 90);
    r->fake.fail_at = 42;
    assert_int_equal(rig_score(r, 10, NULL), MX_ERR_FORMAT);
    assert_non_null(strstr(r->err.text, "document 42"));
    assert_false(r->outcomes[42].done);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batching),   cmocka_unit_test(test_all_done),
        cmocka_unit_test(test_budget),     cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
