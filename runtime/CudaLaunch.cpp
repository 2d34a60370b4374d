//===- CudaLaunch.cpp - Launches of GPU kernels ---------------------------===//
//
// A launch finds its kernel by the address of its descriptor (checked and
// configured the first time), makes the tensor maps or takes those made before,
// and passes maps, buffers, dims and the number of workgroups. It returns at
// once. After an error launches do nothing.
//
//===----------------------------------------------------------------------===//

#include "runtime/CudaDevice.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

using namespace dsc_rt;

namespace {

constexpr int32_t kMaxParameters = 512;      // 4 KiB of addresses, what kernels could take before CUDA 12.1
constexpr int32_t kDefaultShared = 48 << 10; // more must be asked for: CUDA C++ programming guide, "shared memory"
constexpr int32_t kPortableCluster = 8;

/// Whether the GPU code takes what the descriptor says; drivers before 12.4 do not tell.
bool checkParameters(Gpu *gpu, const Kernel &kernel) {
  if (!gpu->driver->funcGetParamInfo)
    return true;
  const dsc_rt_gpu_kernel &of = *kernel.descriptor;
  size_t passed = static_cast<size_t>(of.map_count + of.buffer_count + of.dim_count + 1), taken = 0;
  size_t offset, bytes;
  for (; taken <= passed; ++taken) {
    if (gpu->driver->funcGetParamInfo(kernel.function, taken, &offset, &bytes) != CUDA_SUCCESS)
      break;
    size_t expected = taken < static_cast<size_t>(of.map_count) ? sizeof(CUtensorMap) : 8;
    if (taken < passed && bytes != expected)
      return gpu->fail("parameter %zu of kernel \"%s\" has %zu bytes, the program passes %zu", taken, kernel.name,
                       bytes, expected);
  }
  if (taken != passed)
    return gpu->fail("kernel \"%s\" takes %s%zu parameters, the program passes %zu", kernel.name,
                     taken > passed ? "at least " : "", taken, passed);
  return true;
}

bool checkDescriptor(Gpu *gpu, const Kernel &kernel) {
  const dsc_rt_gpu_kernel &of = *kernel.descriptor;
  bool hopper = gpu->info.major >= 9;
  if (of.threads < 1 || of.threads > 1024 || of.buffer_count < 0 || of.dim_count < 0 || of.blocks_per_sm < 0 ||
      of.cluster < 1 || of.cluster > 16 || of.buffer_count > kMaxParameters || of.dim_count > kMaxParameters ||
      of.map_count > kMaxParameters || of.map_count + of.buffer_count + of.dim_count >= kMaxParameters)
    return gpu->fail(
        "the descriptor of kernel \"%s\" is damaged: %d threads, %d buffers, %d dims, %d maps, clusters of "
        "%d, %d blocks per multiprocessor",
        kernel.name, of.threads, of.buffer_count, of.dim_count, of.map_count, of.cluster, of.blocks_per_sm);
  if (of.shared_bytes < 0 || of.shared_bytes > gpu->info.shared_bytes)
    return gpu->fail("kernel \"%s\" needs %d bytes of shared memory, a block of %s has %d", kernel.name,
                     of.shared_bytes, gpu->info.name, gpu->info.shared_bytes);
  if ((of.cluster > 1 || of.map_count > 0) && !hopper)
    return gpu->fail("kernel \"%s\" uses %s, %s (sm_%d%d) has none", kernel.name,
                     of.cluster > 1 ? "clusters" : "tensor maps", gpu->info.name, gpu->info.major, gpu->info.minor);
  for (int32_t i = 0; i < of.map_count; ++i) {
    const dsc_rt_tensor_map &map = kernel.maps[i];
    if (map.buffer < 0 || map.buffer >= of.buffer_count || map.rank < 1 || map.rank > 5)
      return gpu->fail("tensor map %d of kernel \"%s\" is damaged: buffer %d of %d, rank %d", i, kernel.name,
                       map.buffer, of.buffer_count, map.rank);
  }
  return true;
}

/// The kernel of a descriptor, ready to launch; null after an error.
const Kernel *kernelOf(Gpu *gpu, const void *descriptor) {
  auto key = reinterpret_cast<uint64_t>(descriptor);
  if (void *known = gpu->kernels.find(key))
    return static_cast<Kernel *>(known);
  Kernel kernel;
  if (!lookUpFunction(gpu, descriptor, &kernel) || !checkDescriptor(gpu, kernel) || !checkParameters(gpu, kernel))
    return nullptr;
  const dsc_rt_gpu_kernel &of = *kernel.descriptor;
  if (of.shared_bytes > kDefaultShared &&
      !gpu->ok(gpu->driver->funcSetAttribute(kernel.function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                             of.shared_bytes),
               "%d bytes of shared memory for kernel \"%s\"", of.shared_bytes, kernel.name))
    return nullptr;
  if (of.cluster > kPortableCluster &&
      !gpu->ok(gpu->driver->funcSetAttribute(kernel.function, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1),
               "clusters of %d blocks for kernel \"%s\"", of.cluster, kernel.name))
    return nullptr;
  auto *kept = static_cast<Kernel *>(malloc(sizeof(Kernel)));
  if (!kept || !gpu->kernels.insert(key, kept)) {
    free(kept);
    gpu->fail("out of host memory");
    return nullptr;
  }
  *kept = kernel;
  return kept;
}

int elementOf(int32_t element) {
  switch (element) {
  case DSC_RT_U8:
    return CU_TENSOR_MAP_DATA_TYPE_UINT8;
  case DSC_RT_U16:
    return CU_TENSOR_MAP_DATA_TYPE_UINT16;
  case DSC_RT_U32:
    return CU_TENSOR_MAP_DATA_TYPE_UINT32;
  case DSC_RT_I32:
    return CU_TENSOR_MAP_DATA_TYPE_INT32;
  case DSC_RT_I64:
    return CU_TENSOR_MAP_DATA_TYPE_INT64;
  case DSC_RT_F16:
    return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  case DSC_RT_BF16:
    return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  case DSC_RT_F32:
    return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  case DSC_RT_F64:
    return CU_TENSOR_MAP_DATA_TYPE_FLOAT64;
  default:
    return -1;
  }
}

int swizzleOf(int32_t bytes) {
  switch (bytes) {
  case 0:
    return CU_TENSOR_MAP_SWIZZLE_NONE;
  case 32:
    return CU_TENSOR_MAP_SWIZZLE_32B;
  case 64:
    return CU_TENSOR_MAP_SWIZZLE_64B;
  case 128:
    return CU_TENSOR_MAP_SWIZZLE_128B;
  default:
    return -1;
  }
}

bool encode(Gpu *gpu, const char *kernel, const dsc_rt_tensor_map &of, const uint64_t *words, CUtensorMap *map) {
  int element = elementOf(of.element), swizzle = swizzleOf(of.swizzle);
  if (element < 0 || swizzle < 0)
    return gpu->fail("a tensor map of kernel \"%s\" is damaged: element %d, swizzle %d", kernel, of.element,
                     of.swizzle);
  const uint64_t *sizes = words + 1, *strides = sizes + of.rank;
  uint32_t box[5], steps[5] = {1, 1, 1, 1, 1};
  for (int32_t i = 0; i < 5; ++i)
    box[i] = static_cast<uint32_t>(of.box[i]);
  CUresult result = gpu->driver->tensorMapEncodeTiled(
      map, element, static_cast<uint32_t>(of.rank), reinterpret_cast<void *>(words[0]), sizes, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return gpu->ok(result,
                 "a tensor map of kernel \"%s\": address %#llx, sizes %lld x %lld.., row of %lld bytes, box %d "
                 "x %d.., swizzle %d",
                 kernel, (unsigned long long)words[0], (long long)sizes[0], of.rank > 1 ? (long long)sizes[1] : 1,
                 of.rank > 1 ? (long long)strides[0] : 0, of.box[0], of.rank > 1 ? of.box[1] : 1, of.swizzle);
}

/// Makes room for `count` more, so that none of them moves another away.
bool reserveMaps(Gpu *gpu, int32_t count) {
  TensorMaps &maps = gpu->maps;
  if (!maps.entries) {
    void *memory = nullptr;
    size_t bytes = TensorMaps::kEntries * sizeof(TensorMaps::Entry);
    if (posix_memalign(&memory, alignof(TensorMaps::Entry), bytes))
      return gpu->fail("out of host memory");
    memset(memory, 0, bytes);
    maps.entries = static_cast<TensorMaps::Entry *>(memory);
  }
  static_assert(kMaxParameters <= TensorMaps::kEntries * 3 / 4, "one launch must fit");
  if (maps.count + static_cast<uint32_t>(count) > TensorMaps::kEntries * 3 / 4) {
    memset(static_cast<void *>(maps.entries), 0, TensorMaps::kEntries * sizeof(TensorMaps::Entry));
    maps.count = 0;
  }
  return true;
}

/// The map of an address, sizes and strides; null after an error.
CUtensorMap *tensorMapOf(Gpu *gpu, const Kernel &kernel, const dsc_rt_tensor_map &of, const void *buffer,
                         const int64_t *sizesAndStrides) {
  uint64_t words[10] = {reinterpret_cast<uint64_t>(buffer)};
  uint64_t hash = reinterpret_cast<uint64_t>(&of) ^ mixBits(words[0]);
  for (int32_t i = 0; i < 2 * of.rank - 1; ++i) {
    words[1 + i] = static_cast<uint64_t>(sizesAndStrides[i]);
    hash = mixBits(hash + words[1 + i]);
  }
  uint32_t at = static_cast<uint32_t>(mixBits(hash)) % TensorMaps::kEntries;
  TensorMaps::Entry *entry = &gpu->maps.entries[at];
  for (; entry->of; entry = &gpu->maps.entries[at]) {
    if (entry->of == &of && memcmp(entry->words, words, sizeof(words)) == 0)
      return &entry->map;
    at = (at + 1) % TensorMaps::kEntries;
  }
  if (!encode(gpu, kernel.name, of, words, &entry->map))
    return nullptr;
  entry->of = &of;
  memcpy(entry->words, words, sizeof(words));
  ++gpu->maps.count;
  return &entry->map;
}

/// Blocks of the grid, 0 if it is too large.
unsigned gridOf(const Gpu *gpu, const dsc_rt_gpu_kernel &of, int64_t workgroups) {
  int64_t cluster = of.cluster;
  if (workgroups > INT_MAX - cluster)
    return 0;
  int64_t blocks = (workgroups + cluster - 1) / cluster * cluster;
  if (of.blocks_per_sm > 0) {
    int64_t most = int64_t(of.blocks_per_sm) * gpu->info.multiprocessors / cluster * cluster;
    if (most < cluster)
      most = cluster;
    if (blocks > most)
      blocks = most;
  }
  return static_cast<unsigned>(blocks);
}

bool launch(Gpu *gpu, const Kernel &kernel, void *const *buffers, const int64_t *dims, int64_t workgroups,
            int32_t dispatch, CUstream stream) {
  const dsc_rt_gpu_kernel &of = *kernel.descriptor;
  void *parameters[kMaxParameters];
  int32_t count = 0;
  if (of.map_count > 0 && !reserveMaps(gpu, of.map_count))
    return false;
  const int64_t *numbers = dims + of.dim_count;
  for (int32_t i = 0; i < of.map_count; ++i) {
    const dsc_rt_tensor_map &map = kernel.maps[i];
    CUtensorMap *made = tensorMapOf(gpu, kernel, map, buffers[map.buffer], numbers);
    if (!made)
      return false;
    parameters[count++] = made;
    numbers += 2 * map.rank - 1;
  }
  for (int32_t i = 0; i < of.buffer_count; ++i)
    parameters[count++] = const_cast<void **>(&buffers[i]);
  for (int32_t i = 0; i < of.dim_count; ++i)
    parameters[count++] = const_cast<int64_t *>(&dims[i]);
  parameters[count] = &workgroups;

  unsigned blocks = gridOf(gpu, of, workgroups);
  if (blocks == 0)
    return gpu->fail("kernel \"%s\" (dispatch %d): %lld workgroups are too many", kernel.name, dispatch,
                     (long long)workgroups);
  gpu->lastKernel = kernel.name;
  gpu->lastDispatch = dispatch;
  auto threads = static_cast<unsigned>(of.threads), shared = static_cast<unsigned>(of.shared_bytes);
  CUresult result;
  if (of.cluster > 1) {
    CUlaunchAttribute attribute = {};
    attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.clusterDim[0] = static_cast<unsigned>(of.cluster);
    attribute.clusterDim[1] = attribute.clusterDim[2] = 1;
    CUlaunchConfig config = {{blocks, 1, 1}, {threads, 1, 1}, shared, stream, &attribute, 1};
    result = gpu->driver->launchKernelEx(&config, kernel.function, parameters, nullptr);
  } else {
    result =
        gpu->driver->launchKernel(kernel.function, blocks, 1, 1, threads, 1, 1, shared, stream, parameters, nullptr);
  }
  if (!gpu->ok(result, "launch of kernel \"%s\" (dispatch %d, %u blocks of %u threads)", kernel.name, dispatch, blocks,
               threads))
    return false;
  if (gpu->waits && !gpu->capturing)
    gpu->ok(gpu->driver->streamSynchronize(stream), "kernel \"%s\" (dispatch %d)", kernel.name, dispatch);
  return !gpu->error;
}

/// A stream beside the others of the capture, null if there is none left.
CUstream openBranch(Gpu *gpu) {
  const Driver *driver = gpu->driver;
  Branches &branches = gpu->branches;
  int32_t index = branches.open;
  if (index == Branches::kStreams)
    return nullptr;
  auto event = [&](CUevent *made) {
    return *made || gpu->ok(driver->eventCreate(made, CU_EVENT_DISABLE_TIMING), "making an event");
  };
  if (!event(&branches.fork) || !event(&branches.joins[index]))
    return nullptr;
  CUstream &stream = branches.streams[index];
  if (!stream && !gpu->ok(driver->streamCreate(&stream, CU_STREAM_NON_BLOCKING), "making a stream"))
    return nullptr;
  if (index == 0 && !gpu->ok(driver->eventRecord(branches.fork, gpu->compute), "a branch of a graph"))
    return nullptr;
  if (!gpu->ok(driver->streamWaitEvent(stream, branches.fork, 0), "a branch of a graph"))
    return nullptr;
  ++branches.open;
  return stream;
}

} // namespace

void dsc_rt::joinBranches(Gpu *gpu) {
  Branches &branches = gpu->branches;
  for (int32_t i = 0; i < branches.open; ++i)
    if (gpu->ok(gpu->driver->eventRecord(branches.joins[i], branches.streams[i]), "a branch of a graph"))
      gpu->ok(gpu->driver->streamWaitEvent(gpu->compute, branches.joins[i], 0), "a branch of a graph");
  branches.open = 0;
}

void dsc_rt::gpuLaunch(Gpu *gpu, const void *descriptor, void *const *buffers, const int64_t *dims, int64_t workgroups,
                       int32_t dispatch) {
  if (gpu->error || (workgroups <= 0 && gpu->branches.open == 0))
    return;
  Current current(gpu);
  if (workgroups > 0) {
    const Kernel *kernel = kernelOf(gpu, descriptor);
    if (!kernel)
      return;
    bool measured = beginSpan(gpu, dispatch);
    if (launch(gpu, *kernel, buffers, dims, workgroups, dispatch, gpu->compute) && measured)
      endSpan(gpu);
  }
  joinBranches(gpu);
}

void dsc_rt::gpuDefer(Gpu *gpu, const void *descriptor, void *const *buffers, const int64_t *dims, int64_t workgroups,
                      int32_t dispatch) {
  if (gpu->error || workgroups <= 0)
    return;
  Current current(gpu);
  const Kernel *kernel = kernelOf(gpu, descriptor);
  if (!kernel)
    return;
  CUstream branch = gpu->capturing ? openBranch(gpu) : nullptr;
  bool measured = !branch && beginSpan(gpu, dispatch);
  if (launch(gpu, *kernel, buffers, dims, workgroups, dispatch, branch ? branch : gpu->compute) && measured)
    endSpan(gpu);
}
