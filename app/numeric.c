#include "numeric.h"

bool app_numeric_wanted(const app_numeric *numeric)
{
    return numeric->weights != NULL || numeric->activations != NULL || numeric->head != NULL ||
           numeric->specs_path != NULL;
}

/* A lone --block or --round would silently do nothing. */
static int check_dependents(const app_command *command, const app_numeric *numeric)
{
    const struct {
        const char *name;
        bool given;
    } dependents[] = {
        {"block", numeric->block != NULL},
        {"scale-rule", numeric->scale_rule != NULL},
        {"activation-scale-rule", numeric->activation_scale_rule != NULL},
        {"round", numeric->round != NULL},
        {"seed", numeric->seed != NULL},
        {"exclude", numeric->excludes.count > 0},
    };
    for (size_t i = 0; i < APP_COUNT(dependents); i++) {
        if (dependents[i].given && !app_numeric_wanted(numeric)) {
            return app_usage_error(command,
                                   "--%s needs --weights, --activations, --head or --specs",
                                   dependents[i].name);
        }
    }
    return APP_GO;
}

static mx_status apply(const app_numeric *numeric, mx_specs *specs, mx_error *err)
{
    const struct {
        const char *key, *value;
    } settings[] = {
        {"weights", numeric->weights},
        {"activations", numeric->activations},
        {"head", numeric->head},
        {"block", numeric->block},
        {"scale_rule", numeric->scale_rule},
        {"activation_scale_rule", numeric->activation_scale_rule},
        {"round", numeric->round},
        {"seed", numeric->seed},
    };
    for (size_t i = 0; i < APP_COUNT(settings); i++) {
        if (settings[i].value != NULL) {
            mx_status status = mx_specs_set(specs, settings[i].key, settings[i].value, err);
            if (status != MX_OK) {
                return status;
            }
        }
    }
    for (size_t i = 0; i < numeric->excludes.count; i++) {
        mx_status status = mx_specs_set(specs, "exclude", numeric->excludes.items[i], err);
        if (status != MX_OK) {
            return status;
        }
    }
    return MX_OK;
}

int app_numeric_specs(const app_command *command, const app_numeric *numeric, mx_specs **out)
{
    *out = NULL;
    int code = check_dependents(command, numeric);
    if (code != APP_GO) {
        return code;
    }
    mx_error err = {0};
    mx_specs *specs = NULL;
    char *note = NULL;
    mx_status status = mx_specs_create(&specs, &err);
    if (status == MX_OK && numeric->specs_path != NULL) {
        status = mx_specs_load(specs, numeric->specs_path, &note, &err);
    }
    if (note != NULL) {
        app_error("note: %s", note);
        mx_string_free(note);
    }
    if (status == MX_OK) {
        status = apply(numeric, specs, &err);
    }
    if (status != MX_OK) {
        mx_specs_free(specs);
        return app_status(status, &err);
    }
    *out = specs;
    return APP_GO;
}

void app_numeric_clear(app_numeric *numeric)
{
    app_list_free(&numeric->excludes);
}
