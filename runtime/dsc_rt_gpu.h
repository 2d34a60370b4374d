//===- dsc_rt_gpu.h - C API of libdsc_rt for NVIDIA GPUs ------------------===//
//
// A context may be a GPU: dsc_rt_create_gpu. Compiled programs call
// dsc_rt_launch, dsc_rt_defer and dsc_rt_arena with it as they do with a thread
// pool; buffers are device addresses then, and a kernel is the address of a
// dsc_rt_gpu_kernel whose code dsc_rt_attach brought to the device. Beside it:
// device memory, copies, events, CUDA graphs, and collectives through NCCL.
//
// The library does not depend on CUDA: libcuda.so.1 ($DEEPSEEK_LIBCUDA) and
// libnccl.so.2 ($DEEPSEEK_LIBNCCL) are looked for when first needed.
//
// All work of a context is ordered as it was issued, on one stream. Calls that
// return int return 0, or the number of the error (of CUDA: CUresult; -1: of
// ours). The first error of a context stays until dsc_rt_gpu_error reads it;
// until then its calls do nothing but return that number. As for thread pools,
// the host holds a lock around calls with one context; only dsc_rt_gpu_free may
// run beside others. CUDA does not survive fork(): a child can use no GPU of its
// parent's contexts.
//
//===----------------------------------------------------------------------===//

#ifndef DSC_RT_GPU_H
#define DSC_RT_GPU_H

#include "runtime/dsc_rt.h"

#ifdef __cplusplus
extern "C" {
#endif

//===----------------------------------------------------------------------===//
// What compiled objects hold
//===----------------------------------------------------------------------===//

#define DSC_RT_GPU_KERNEL 0x44534B31u

/// What a launch needs to know of a GPU kernel; constant data of a compiled
/// object, followed by `map_count` dsc_rt_tensor_map and the NUL-terminated name
/// of the entry point. The kernel's parameters are, in this order: the tensor
/// maps (128 bytes each, aligned to 64), the buffers' addresses, the dims and
/// the number of workgroups (64 bits each).
///
/// The grid is one-dimensional. Without `blocks_per_sm` it has one block per
/// workgroup, with it min(workgroups, blocks_per_sm * multiprocessors) blocks,
/// which take the workgroups in turns. With clusters it is a multiple of
/// `cluster`: rounded up, but for the limit by multiprocessors, which is rounded
/// down; blocks beyond the number of workgroups have nothing to do.
typedef struct dsc_rt_gpu_kernel {
  uint32_t magic;       // DSC_RT_GPU_KERNEL
  int32_t threads;      // of a block
  int32_t shared_bytes; // dynamic shared memory of a block
  int32_t buffer_count;
  int32_t dim_count;
  int32_t blocks_per_sm; // of a persistent kernel, 0: one block per workgroup
  int32_t cluster;       // blocks of a cluster, 1 without
  int32_t map_count;
} dsc_rt_gpu_kernel;

/// Element of a tensor map. Formats of 8 bits are DSC_RT_U8.
enum { DSC_RT_U8, DSC_RT_U16, DSC_RT_U32, DSC_RT_I32, DSC_RT_I64, DSC_RT_F16, DSC_RT_BF16, DSC_RT_F32, DSC_RT_F64 };

/// A TMA descriptor that the launch makes of buffer `buffer`: tiled, not
/// interleaved, zeros outside. Its sizes (elements, fastest first) are the
/// `rank` numbers behind the `dim_count` dims, its strides (bytes, of all but
/// the fastest) the `rank - 1` numbers behind those; those of the next map
/// follow. `swizzle` is 0, 32, 64 or 128 (bytes), `box` in elements.
typedef struct dsc_rt_tensor_map {
  int32_t buffer, element, rank, swizzle, box[5];
} dsc_rt_tensor_map;

//===----------------------------------------------------------------------===//
// Devices
//===----------------------------------------------------------------------===//

/// Why there is no usable GPU.
enum {
  DSC_RT_GPU_USABLE,
  DSC_RT_GPU_NO_DRIVER,     // no libcuda.so.1, or one that lacks functions
  DSC_RT_GPU_OLD_DRIVER,    // older than CUDA 12.3, which PTX 8.3 needs
  DSC_RT_GPU_DRIVER_FAILED, // cuInit or another first call failed, or this is a child of fork()
  DSC_RT_GPU_NO_DEVICE,
  DSC_RT_GPU_OLD_DEVICE // no device of compute capability 8.0 or newer
};

/// DSC_RT_GPU_USABLE if some device can run compiled code, else why not, with
/// one sentence in `message` (NUL-terminated, cut to `size`). Makes no context.
DSC_RT_EXPORT int dsc_rt_gpu_probe(char *message, size_t size);

/// Number of devices, 0 where there is no driver.
DSC_RT_EXPORT int dsc_rt_gpu_count(void);

typedef struct dsc_rt_gpu_device {
  char name[96];
  int32_t major, minor; // compute capability
  int32_t multiprocessors;
  int32_t shared_bytes; // that a block may have at most
  int32_t clock_khz;
  int32_t driver; // what the driver supports: 12030 is CUDA 12.3
  int64_t memory_bytes;
  int64_t l2_bytes;
} dsc_rt_gpu_device;

/// Describes a device; returns 0, or nonzero with a sentence in `message`.
DSC_RT_EXPORT int dsc_rt_gpu_info(int device, dsc_rt_gpu_device *info, char *message, size_t size);

/// Makes a context of a device (its primary context, which it shares with other
/// libraries of the process). NULL with a sentence in `message` if that fails.
/// dsc_rt_destroy ends it with its memory, events and graphs; of the functions
/// of dsc_rt.h, dsc_rt_threads returns the number of multiprocessors and
/// dsc_rt_read_once does nothing. A deferred launch is a launch; while a graph
/// is captured it becomes a branch beside the next one.
DSC_RT_EXPORT dsc_rt_context *dsc_rt_create_gpu(int device, char *message, size_t size);

/// GPU code of a module on a context; ends with either of them.
typedef struct dsc_rt_code dsc_rt_code;

/// Brings GPU code (PTX text, a cubin or a fat binary) to the device for the
/// kernels whose descriptors `module` holds. PTX is compiled; with `cache` (a
/// folder, may be NULL) the result is kept there, by PTX, driver and compute
/// capability, and read the next time. A folder that cannot be read or written
/// is no error. Returns NULL on failure and writes several lines to `message`:
/// what failed and what the driver's compiler said. Does not change
/// dsc_rt_gpu_error. A module may have several, a kernel is that of the last.
DSC_RT_EXPORT dsc_rt_code *dsc_rt_attach(dsc_rt_module *module, dsc_rt_context *context, const void *image, size_t size,
                                         const char *cache, char *message, size_t message_size);

/// Compiles PTX text into the folder `cache` unless it is there, so that
/// dsc_rt_attach finds it. Several threads may do that at a time, with
/// different texts. What the driver refuses is left to dsc_rt_attach to report.
/// Returns whether it compiled something.
DSC_RT_EXPORT int dsc_rt_gpu_compile(dsc_rt_context *context, const void *image, size_t size, const char *cache);

/// Takes the code back before its module and context end. Graphs that hold its
/// kernels must not be launched after that. NULL is a no-op.
DSC_RT_EXPORT void dsc_rt_detach(dsc_rt_code *code);

/// Reads and clears the first error: its number (0: none), and a sentence with
/// CUDA's name for it, the kernel and the dispatch.
DSC_RT_EXPORT int dsc_rt_gpu_error(dsc_rt_context *context, char *message, size_t size);

/// Waits for all work. Errors of kernels show here at the latest; with
/// $DEEPSEEK_CUDA_SYNC=1 every launch waits, so that they name their kernel.
DSC_RT_EXPORT int dsc_rt_gpu_synchronize(dsc_rt_context *context);

/// The CUstream of all work, for other libraries.
DSC_RT_EXPORT void *dsc_rt_gpu_stream(dsc_rt_context *context);

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

/// Device memory of `bytes` bytes, aligned to 512, contents undefined; NULL on
/// failure (number and sentence: dsc_rt_gpu_error). Memory that was freed is
/// taken first, and given back to the device when that has no more.
DSC_RT_EXPORT void *dsc_rt_gpu_alloc(dsc_rt_context *context, int64_t bytes);

/// Gives memory back to the context: later allocations may take it, whose work
/// is ordered behind all work issued so far. What is freed while a graph is
/// captured stays reserved as long as the graph. NULL is a no-op.
DSC_RT_EXPORT void dsc_rt_gpu_free(dsc_rt_context *context, void *memory);

/// Gives unused memory back to the device; returns the number of bytes.
DSC_RT_EXPORT int64_t dsc_rt_gpu_trim(dsc_rt_context *context);

typedef struct dsc_rt_gpu_memory {
  int64_t used, high_water;    // bytes in allocations, rounded up; most of them
  int64_t reserved;            // bytes taken from the device, the arena included
  int64_t count;               // allocations that live, the arena included
  int64_t device_free, device; // bytes of the device that are free, and all
} dsc_rt_gpu_memory;

/// The first four are known also while an error waits.
DSC_RT_EXPORT int dsc_rt_gpu_memory_info(dsc_rt_context *context, dsc_rt_gpu_memory *info);

/// The last out-of-memory error: bytes asked for, free and in all.
DSC_RT_EXPORT void dsc_rt_gpu_shortage(dsc_rt_context *context, int64_t *requested, int64_t *free_bytes,
                                       int64_t *total);

/// Copies host memory to the device, through pinned memory: `source` may change
/// when the call returns. Not `ordered`: nothing that was issued before touches
/// `target`, so that the copy does not wait for it.
DSC_RT_EXPORT int dsc_rt_gpu_upload(dsc_rt_context *context, void *target, const void *source, int64_t bytes,
                                    int32_t ordered);

/// Copies device memory to the host and waits until it is there.
DSC_RT_EXPORT int dsc_rt_gpu_download(dsc_rt_context *context, void *target, const void *source, int64_t bytes);

/// Copies within the device; the two must not overlap.
DSC_RT_EXPORT int dsc_rt_gpu_copy(dsc_rt_context *context, void *target, const void *source, int64_t bytes);

/// Sets every byte to `value`.
DSC_RT_EXPORT int dsc_rt_gpu_fill(dsc_rt_context *context, void *target, int value, int64_t bytes);

//===----------------------------------------------------------------------===//
// Events and graphs
//===----------------------------------------------------------------------===//

/// A point in the order of work; NULL on failure. Destroy it before the context.
typedef struct dsc_rt_gpu_event dsc_rt_gpu_event;
DSC_RT_EXPORT dsc_rt_gpu_event *dsc_rt_gpu_event_create(dsc_rt_context *context);
DSC_RT_EXPORT void dsc_rt_gpu_event_destroy(dsc_rt_gpu_event *event);
DSC_RT_EXPORT int dsc_rt_gpu_event_record(dsc_rt_gpu_event *event);
DSC_RT_EXPORT int dsc_rt_gpu_event_synchronize(dsc_rt_gpu_event *event);

/// 1 if the work before the event is done, 0 if not, -1 on an error.
DSC_RT_EXPORT int dsc_rt_gpu_event_done(dsc_rt_gpu_event *event);

/// Milliseconds from one event to a later one, both done; negative on an error.
DSC_RT_EXPORT double dsc_rt_gpu_event_elapsed(dsc_rt_gpu_event *from, dsc_rt_gpu_event *to);

/// Launches that were captured, to be launched again with one call. Buffers and
/// modules of a graph must live as long as it; the arena that it uses does.
typedef struct dsc_rt_gpu_graph dsc_rt_gpu_graph;

/// From here on work is recorded instead of done: launches, copies within the
/// device, fills, collectives. Uploads and downloads are errors.
DSC_RT_EXPORT int dsc_rt_gpu_capture_begin(dsc_rt_context *context);

/// Ends the recording and makes it ready to launch; NULL on failure, also of a
/// launch in between. `graph` (may be NULL) is an earlier one of the context that
/// is updated in place, which is fast where only sizes and addresses changed.
/// It is returned then, and remains as it was on failure.
DSC_RT_EXPORT dsc_rt_gpu_graph *dsc_rt_gpu_capture_end(dsc_rt_context *context, dsc_rt_gpu_graph *graph);

DSC_RT_EXPORT int dsc_rt_gpu_graph_launch(dsc_rt_gpu_graph *graph);

/// Destroy graphs before their context. NULL is a no-op.
DSC_RT_EXPORT void dsc_rt_gpu_graph_destroy(dsc_rt_gpu_graph *graph);

//===----------------------------------------------------------------------===//
// Collectives
//===----------------------------------------------------------------------===//

#define DSC_RT_COMM_ID_BYTES 128

/// The sum or the greatest of all ranks' numbers.
enum { DSC_RT_SUM, DSC_RT_MAX };

/// One rank of a group of GPUs.
typedef struct dsc_rt_comm dsc_rt_comm;

/// Loads NCCL from `path` (NULL: $DEEPSEEK_LIBNCCL, or else libnccl.so.2); later
/// calls find it loaded. Returns its version (22703 is 2.27.3), or -1 with a
/// sentence in `message`.
DSC_RT_EXPORT int dsc_rt_comm_load(const char *path, char *message, size_t size);

/// Makes the id of a new group; rank 0 does, and passes it to the others by
/// other means. Returns 0, or nonzero with a sentence in `message`.
DSC_RT_EXPORT int dsc_rt_comm_id(void *id, char *message, size_t size);

/// Joins a group as rank `rank` of `ranks`, and waits until all have. NULL with
/// a sentence in `message` on failure. Destroy it before the context.
DSC_RT_EXPORT dsc_rt_comm *dsc_rt_comm_create(dsc_rt_context *context, const void *id, int ranks, int rank,
                                              char *message, size_t size);

/// Collectives are work of the context, ordered with its launches. `count` is in
/// elements (an element as of tensor maps), of what one rank sends, but of
/// reduce_scatter and all_to_all of what it receives from one rank. `target` may
/// be `source`; of all_gather `source` may be this rank's part of `target`, of
/// reduce_scatter the reverse.
DSC_RT_EXPORT int dsc_rt_comm_all_reduce(dsc_rt_comm *comm, void *target, const void *source, int64_t count,
                                         int element, int operation);
DSC_RT_EXPORT int dsc_rt_comm_all_gather(dsc_rt_comm *comm, void *target, const void *source, int64_t count,
                                         int element);
DSC_RT_EXPORT int dsc_rt_comm_reduce_scatter(dsc_rt_comm *comm, void *target, const void *source, int64_t count,
                                             int element, int operation);
/// Here `target` must not be `source`.
DSC_RT_EXPORT int dsc_rt_comm_all_to_all(dsc_rt_comm *comm, void *target, const void *source, int64_t count,
                                         int element);
DSC_RT_EXPORT int dsc_rt_comm_broadcast(dsc_rt_comm *comm, void *target, const void *source, int64_t count, int element,
                                        int root);
DSC_RT_EXPORT int dsc_rt_comm_send(dsc_rt_comm *comm, const void *source, int64_t count, int element, int peer);
DSC_RT_EXPORT int dsc_rt_comm_receive(dsc_rt_comm *comm, void *target, int64_t count, int element, int peer);

/// Sends and receives between these two calls run beside each other.
DSC_RT_EXPORT int dsc_rt_comm_group_begin(dsc_rt_comm *comm);
DSC_RT_EXPORT int dsc_rt_comm_group_end(dsc_rt_comm *comm);

/// Asks whether a collective failed since, for example because another rank is
/// gone: 0, or the number of the error, which dsc_rt_gpu_error then reads.
DSC_RT_EXPORT int dsc_rt_comm_check(dsc_rt_comm *comm);

/// Ends collectives that wait for others; afterwards only destroy may be called.
/// May run beside a call that waits for the context.
DSC_RT_EXPORT int dsc_rt_comm_abort(dsc_rt_comm *comm);

/// Waits for the group's work and leaves it; aborts it where a collective failed.
/// NULL is a no-op.
DSC_RT_EXPORT void dsc_rt_comm_destroy(dsc_rt_comm *comm);

#ifdef __cplusplus
}
#endif

#endif // DSC_RT_GPU_H
