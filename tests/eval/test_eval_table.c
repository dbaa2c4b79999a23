/* Tables, against what lm_eval printed. */
#include "eval_fixture.h"

#include "eval/md_table.h"
#include "eval/results.h"

static const mx_task fake_task = {.name = "fake", .kind = MX_TASK_TARGET, .version = 1.0};

static void check_table(const mx_task_result *results, size_t count, const char *wanted)
{
    mx_error err = {0};
    char *table = NULL;
    fixture_ok(mx_results_table(results, count, &table, &err), err);
    assert_string_equal(table, wanted);
    free(table);
}

/* data/README.md's table of golden/lm_eval_results.json. */
static void test_lambada_local(void **state)
{
    (void)state;
    mx_task_request request = {.task = &fake_task, .name = (char *)"lambada_local"};
    mx_task_result result = {
        .request = &request,
        .metrics = {{.name = "perplexity",
                     .value = 48.597229454744735,
                     .stderror = 1.8859790201449445},
                    {.name = "acc",
                     .value = 0.2943916165340578,
                     .stderror = 0.006349750457397488,
                     .higher_is_better = true}},
        .n_metrics = 2,
    };
    check_table(&result, 1,
                "|    Tasks    |Version|Filter|n-shot|  Metric  |   | Value |   |Stderr|\n"
                "|-------------|------:|------|-----:|----------|---|------:|---|-----:|\n"
                "|lambada_local|      1|none  |     0|acc       |↑  | 0.2944|±  |0.0063|\n"
                "|             |       |none  |     0|perplexity|↓  |48.5972|±  |1.8860|\n");
}

/* What pytablewriter 1.2 prints for the same cells. */
static void test_no_stderr(void **state)
{
    (void)state;
    mx_task_request requests[] = {{.task = &fake_task, .name = (char *)"cloze"},
                                  {.task = &fake_task, .name = (char *)"wikitext"}};
    mx_task_result results[] = {
        {.request = &requests[0],
         .metrics = {{.name = "perplexity", .value = 148.5123, .stderror = 1.8123},
                     {.name = "acc", .value = 0.29, .stderror = NAN, .higher_is_better = true}},
         .n_metrics = 2},
        {.request = &requests[1],
         .metrics = {{.name = "bits_per_byte", .value = 12345.1234, .stderror = NAN}},
         .n_metrics = 1},
    };
    check_table(results, 2,
                "| Tasks  |Version|Filter|n-shot|   Metric    |   |  Value   |   |Stderr|\n"
                "|--------|------:|------|-----:|-------------|---|---------:|---|------|\n"
                "|cloze   |      1|none  |     0|acc          |↑  |    0.2900|±  |   N/A|\n"
                "|        |       |none  |     0|perplexity   |↓  |  148.5123|±  |1.8123|\n"
                "|wikitext|      1|none  |     0|bits_per_byte|↓  |12345.1234|±  |   N/A|\n");
}

/* Cells of outside text cannot leave their place. */
static void test_escape(void **state)
{
    (void)state;
    mx_md_table table = {.columns = 2, .right = {false, true}};
    mx_str text = {0};
    mx_error err = {0};
    char *out = NULL;
    mx_md_table_addf(&table, "a");
    mx_md_table_addf(&table, "b");
    mx_md_table_addf(&table, "%s", "x|y\nz");
    mx_md_table_addf(&table, "%s", "é");
    fixture_ok(mx_md_table_render(&table, &text, &err), err);
    fixture_ok(mx_str_take(&text, &out, &err), err);
    assert_string_equal(out, "|  a   | b |\n"
                             "|------|--:|\n"
                             "|x\\|y?z|  é|\n");
    free(out);
    mx_md_table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lambada_local),
        cmocka_unit_test(test_no_stderr),
        cmocka_unit_test(test_escape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
