//===- dsc_rt.h - C API of the runtime library libdsc_rt ------------------===//
//
// Everything that compiled code and its host need at run time: a thread pool,
// scratch memory, a loader for the relocatable objects that the compiler
// writes, and the names of the usable CPU features. Depends on libc only.
// GPUs: dsc_rt_gpu.h.
//
// Compiled objects may call dsc_rt_launch, dsc_rt_defer, dsc_rt_arena and
// dsc_rt_threads; the loader refuses every other external symbol.
//
//===----------------------------------------------------------------------===//

#ifndef DSC_RT_H
#define DSC_RT_H

#include <stddef.h>
#include <stdint.h>

#if defined(DSC_RT_BUILD)
#define DSC_RT_EXPORT __attribute__((visibility("default")))
#else
#define DSC_RT_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/// Version of this API; raised by every change that a caller can notice.
#define DSC_RT_VERSION 6

/// A thread pool, or a GPU (dsc_rt_create_gpu), with its scratch memory and
/// profile. One call into compiled
/// code at a time may use a context; the host holds a lock around the call.
typedef struct dsc_rt_context dsc_rt_context;

/// A loaded object.
typedef struct dsc_rt_module dsc_rt_module;

/// One kernel: computes workgroups [begin, end), in that order, and may keep
/// what they share on its stack. Workgroups of a launch are independent, and
/// ranges of them run beside each other. On a GPU it is no code: the address of a
/// dsc_rt_gpu_kernel.
typedef void (*dsc_rt_kernel)(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end);

/// DSC_RT_VERSION of the library, to be compared with that of the header.
DSC_RT_EXPORT int dsc_rt_version(void);

/// Makes a context that runs launches on `threads` threads: the caller and
/// `threads - 1` workers. 0 means one per CPU that this process may use
/// (sched_getaffinity). When the system refuses more threads the context has
/// fewer. Returns NULL when `threads` is negative or memory is out.
DSC_RT_EXPORT dsc_rt_context *dsc_rt_create(int threads);

/// Ends the workers and frees the context with its scratch memory. Must not
/// run beside a launch on the same context. NULL is a no-op.
DSC_RT_EXPORT void dsc_rt_destroy(dsc_rt_context *context);

/// Number of threads that a launch uses, the caller included.
DSC_RT_EXPORT int dsc_rt_threads(dsc_rt_context *context);

/// Runs `kernel` once for every workgroup in [0, workgroups) and returns when
/// all are done. The range is cut into contiguous parts of nearly equal length,
/// part 0 runs on the caller. `workgroups <= 0` is a no-op, a single workgroup
/// runs on the caller. A launch from inside a kernel, or beside another launch
/// on the same context, runs on its caller alone. Kernels see the default
/// floating-point mode (round to nearest even, subnormals kept) on every
/// thread. After fork() the child's first launch makes new workers. `dispatch`
/// names the launch in profiles.
DSC_RT_EXPORT void dsc_rt_launch(dsc_rt_context *context, dsc_rt_kernel kernel, void *const *buffers,
                                 const int64_t *dims, int64_t workgroups, int32_t dispatch);

/// A launch that runs beside the next dsc_rt_launch on this context, as part of
/// it: neither may read what the other writes. The `bufferCount` addresses are
/// copied, `dims` must stay. While profiling it runs at once.
DSC_RT_EXPORT void dsc_rt_defer(dsc_rt_context *context, dsc_rt_kernel kernel, void *const *buffers,
                                int32_t bufferCount, const int64_t *dims, int64_t workgroups, int32_t dispatch);

/// Lets pages of read-only file mappings leave this process while launches read
/// them once: mapping i has sizes[i] bytes at starts[i] (a multiple of the page
/// size), every few launches all are given back. The arrays must stay until the
/// next call, which gives back the rest; count 0 ends it.
DSC_RT_EXPORT void dsc_rt_read_once(dsc_rt_context *context, void *const *starts, const size_t *sizes, int32_t count);

/// Scratch memory of at least `bytes` bytes, 64-byte aligned, contents
/// undefined, valid until the next dsc_rt_arena on this context. It grows only.
/// Returns NULL when `bytes` is negative or memory is out.
DSC_RT_EXPORT void *dsc_rt_arena(dsc_rt_context *context, int64_t bytes);

/// Bytes of the scratch memory that the context holds.
DSC_RT_EXPORT int64_t dsc_rt_arena_bytes(dsc_rt_context *context);

/// Time of a launch from its call to its end (part -1), or of one of the parts
/// that it was cut into, in nanoseconds of CLOCK_MONOTONIC.
typedef struct dsc_rt_span {
  int64_t begin, end;
  int32_t dispatch, part;
} dsc_rt_span;

/// While set, every launch with dispatch >= 0 writes the spans of its parts and
/// then its own to `spans`, until `capacity` of them are written. NULL ends
/// profiling. Returns how many spans were written since the call before. On a GPU
/// a launch has one span (part -1), and spans are written by the call that ends
/// profiling; launches of graphs have none.
DSC_RT_EXPORT int64_t dsc_rt_profile(dsc_rt_context *context, dsc_rt_span *spans, int64_t capacity);

/// Loads a relocatable ELF64 object of this machine from `size` bytes at `elf`
/// (any alignment; not kept). Code is mapped read and execute, constants read
/// only. Returns NULL on failure and writes one sentence (NUL-terminated, cut
/// to `message_size`) to `message`, which may be NULL when `message_size` is 0.
DSC_RT_EXPORT dsc_rt_module *dsc_rt_load(const void *elf, size_t size, char *message, size_t message_size);

/// Address of a global symbol that the object defines, NULL if there is none.
DSC_RT_EXPORT void *dsc_rt_symbol(dsc_rt_module *module, const char *name);

/// Unmaps a module; its symbols become invalid. NULL is a no-op.
DSC_RT_EXPORT void dsc_rt_unload(dsc_rt_module *module);

/// Writes the features that both CPU and operating system support, as LLVM
/// spells them, comma separated and NUL-terminated, to `out` (cut to `size`).
/// Returns the length of the whole list without the NUL, as snprintf does.
/// Asks the kernel for the use of AMX tiles where the CPU has them.
DSC_RT_EXPORT int dsc_rt_cpu_features(char *out, size_t size);

/// What dsc_rt_limit measures: multiplications and additions of f32, dot
/// products of bf16 with sums in f32, of bytes with sums in 32 bits (operations
/// per second, two per product), reading memory (bytes per second), and the
/// products of bf16 and bytes on matrix tiles.
enum {
  DSC_RT_LIMIT_F32,
  DSC_RT_LIMIT_BF16,
  DSC_RT_LIMIT_INT8,
  DSC_RT_LIMIT_READ,
  DSC_RT_LIMIT_BF16_TILES,
  DSC_RT_LIMIT_INT8_TILES
};

/// Best of three runs, of about 0.1 s together, on `threads` threads at once.
/// Reading takes 1 GiB of memory for its time. 0 where the CPU has no
/// instruction for it, memory is out, or an argument makes no sense.
DSC_RT_EXPORT double dsc_rt_limit(int kind, int threads);

/// Counts the numbers of f16 whose magnitude is the greatest of the type, or
/// infinite or NaN, in positions [begins[r], ends[r]) of every row r: what did
/// not fit when it was rounded. Cache c is [rows, planes[c], capacity,
/// sizes[c]]; its count goes into counts[c]. Returns their sum.
DSC_RT_EXPORT int64_t dsc_rt_count_saturated(void *const *caches, const int64_t *planes, const int64_t *sizes,
                                             int32_t cacheCount, int64_t capacity, int64_t rows, const int32_t *begins,
                                             const int32_t *ends, int64_t *counts);

#ifdef __cplusplus
}
#endif

#endif // DSC_RT_H
