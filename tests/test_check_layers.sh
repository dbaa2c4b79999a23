#!/usr/bin/env bash
# check_layers.sh must notice every kind of break: a small tree that breaks each rule
# once, and the exact complaints.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

put() { # FILE: content from stdin
    mkdir -p "$tree/$(dirname "$1")"
    cat >"$tree/$1"
}

put include/mxlm.h <<'E'
#ifndef MXLM_H
#define MXLM_H
enum class_name { class = 1 };
int size(size_t n);
#endif
E
put src/base/good.h <<'E'
#ifndef GOOD_H
#define GOOD_H
#include "base/good.h"
int snprintf_like(int exit_code); /* printf( and exit( in a comment are fine */
#endif
E
put src/base/up.c <<'E'
#include "format/format.h"
#include <pcre2.h>
E
put src/format/format.h <<'E'
#include "base/good.h"
json_t *needs_another_header(void);
E
put src/io/same_name.c <<'E'
#include "kernel/kernel.h"
/* a comment
   of two lines */
void f(void) { printf("x"); }
/*
  printf("not this"):
  a comment longer than the eight lines that the preprocessor keeps










*/
void g(void) { if (1) abort(); }
void h(void) { fprintf(stderr, "x"); fprintf(file, "x"); }
E
put src/eval/same_name.c <<'E'
#include "base/good.h"
#include "quant/quantize.h"
#include "nowhere.h"
E
put src/model/long.c < <(yes '' | head -800)
put src/surprise/new.c </dev/null
put app/main.c <<'E'
#include "mxlm.h"
#include "base/good.h"
E

expected="app/main.c:2: app may include mxlm.h and its own headers only, not \"base/good.h\"
include/mxlm.h:1: does not compile alone as C++17
include/mxlm.h:1: does not compile alone as C17
src/base/up.c:1: base may not include format/format.h
src/base/up.c:2: only io may include <pcre2.h>
src/eval/same_name.c:2: eval may not include quant/quantize.h
src/eval/same_name.c:3: \"nowhere.h\" is neither mxlm.h nor in the same folder
src/format/format.h:1: does not compile alone
src/io/same_name.c:1: io may not include kernel/kernel.h
src/io/same_name.c:4: the library neither prints nor exits: void f(void) { printf(\"\"); }
src/io/same_name.c:19: the library neither prints nor exits: void g(void) { if (1) abort(); }
src/io/same_name.c:20: the library neither prints nor exits: void h(void) { fprintf(stderr, \"\"); fprintf(file, \"\"); }
src/model/long.c:800: 800 lines; the limit is below 800
src/surprise:1: a layer that the dependency law does not know
./src/eval/same_name.c:1: file name same_name.c is not unique
15 rules broken"

code=0
actual=$("$here/check_layers.sh" "$tree" 2>/dev/null) || code=$?
if ! diff <(sort <<<"$expected") <(sort <<<"$actual"); then
    echo "check_layers.sh did not complain as expected (< expected, > actual)"
    exit 1
fi
[ "$code" -eq 1 ] || {
    echo "exit code $code instead of 1"
    exit 1
}
