"""A C program drives libdsc_rt through its whole life: it may read nothing beyond an object, and keeps no memory.

Under `make test-asan` the library checks both itself: the object of every length stands alone at the end of its
allocation, and LeakSanitizer looks at the end. Without it malloc says what was kept.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from deepseek import runtime

OBJECT = """
extern int32_t dsc_rt_threads(void *);
extern void *dsc_rt_arena(void *, int64_t);
extern void dsc_rt_launch(void *, void (*)(void *const *, const int64_t *, int64_t, int64_t), void *const *, const int64_t *,
                          int64_t, int32_t);
static int64_t zeros[32];
const int64_t primes[4] = {2, 3, 5, 7};
int64_t counts[4] = {1, 1, 1, 1};
static void count(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    __atomic_fetch_add((int64_t *)buffers[0] + i % 4, primes[i % 4] + zeros[i % 32], __ATOMIC_RELAXED);
  }
}
int32_t run(void *context) {
  int64_t *sums = dsc_rt_arena(context, 4 * sizeof(int64_t));
  if (!sums) return -1;
  for (int i = 0; i < 4; ++i) sums[i] = counts[i];
  void *const buffers[1] = {sums};
  dsc_rt_launch(context, count, buffers, 0, 64, 0);
  return sums[0] + sums[1] + sums[2] + sums[3];
}
"""
PROGRAM = r"""
#include "runtime/dsc_rt.h"
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char object[1 << 16];

/* Loads the first `length` bytes from memory that ends with them. */
static dsc_rt_module *load(size_t length, char *message, size_t size) {
  char *copy = malloc(length ? length : 1);
  memcpy(copy, object, length);
  dsc_rt_module *module = dsc_rt_load(copy, length, message, size);
  free(copy);
  return module;
}

static int once(size_t length) {
  char message[200];
  for (size_t part = 0; part < length; ++part)
    dsc_rt_unload(load(part, message, part % sizeof(message)));
  dsc_rt_span spans[5] = {{0}};
  dsc_rt_context *context = dsc_rt_create(3);
  dsc_rt_module *module = load(length, message, sizeof(message));
  if (!context || !module) {
    puts(module ? "no context" : message);
    return 0;
  }
  int32_t (*run)(dsc_rt_context *) = (int32_t(*)(dsc_rt_context *))dsc_rt_symbol(module, "run");
  dsc_rt_profile(context, spans, 5);
  int32_t sum = run(context);
  int64_t count = dsc_rt_profile(context, 0, 0);
  dsc_rt_unload(module);
  dsc_rt_destroy(context);
  int right = sum == 4 + 16 * (2 + 3 + 5 + 7) && count >= 2 && spans[count - 1].part == -1;
  if (!right)
    printf("sum %d, %lld spans\n", sum, (long long)count);
  return right;
}

int main(int argc, char **argv) {
  FILE *file = fopen(argv[argc - 1], "rb");
  size_t length = fread(object, 1, sizeof(object), file);
  fclose(file);
  char features[8];
  if (dsc_rt_version() != DSC_RT_VERSION || dsc_rt_cpu_features(features, sizeof(features)) <= 0 || !once(length))
    return 1;
  size_t before = mallinfo2().uordblks;
  for (int i = 0; i < 3; ++i)
    if (!once(length))
      return 1;
  size_t kept = mallinfo2().uordblks - before;
  if (kept)
    printf("%zu bytes were kept\n", kept);
  return kept != 0;
}
"""


def test_nothing_is_read_beyond_or_kept(compile_c: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "object.o").write_bytes(compile_c(OBJECT))
    (tmp_path / "program.c").write_text(PROGRAM)
    library = runtime._LIBRARY.resolve()
    include = Path(__file__).resolve().parents[2]
    command = ["gcc", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", f"-I{include}", "program.c", str(library)]
    command += [f"-Wl,-rpath,{library.parent}", "-Wl,--allow-shlib-undefined", "-o", "program"]
    subprocess.run(command, cwd=tmp_path, check=True)
    environment = dict(os.environ, ASAN_OPTIONS=f"{os.environ.get('ASAN_OPTIONS', '')}:detect_leaks=1")
    environment["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=0"  # mallinfo2 counts as used what these caches hold
    result = subprocess.run(
        ["./program", "object.o"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
