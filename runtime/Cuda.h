//===- Cuda.h - The part of the CUDA driver API that we call (internal) ---===//
//
// Types, numbers and signatures as the CUDA Driver API reference states them
// (docs.nvidia.com/cuda/cuda-driver-api, 12.3). Nothing here links to CUDA: the
// functions are found in libcuda.so.1 when a GPU is first asked for.
//
//===----------------------------------------------------------------------===//

#ifndef DSC_RT_CUDA_H
#define DSC_RT_CUDA_H

#include <stddef.h>
#include <stdint.h>

namespace dsc_rt {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st *;
using CUmodule = struct CUmod_st *;
using CUfunction = struct CUfunc_st *;
using CUstream = struct CUstream_st *;
using CUevent = struct CUevent_st *;
using CUgraph = struct CUgraph_st *;
using CUgraphExec = struct CUgraphExec_st *;
using CUlinkState = struct CUlinkState_st *;

enum : int {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_NOT_READY = 600,
};

// CUdevice_attribute
enum : int {
  CU_DEVICE_ATTRIBUTE_CLOCK_RATE = 13,
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE = 38,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
};

// CUfunction_attribute
enum : int {
  CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
  CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14,
};

// CUjit_option and CUjitInputType
enum : int {
  CU_JIT_INFO_LOG_BUFFER = 3,
  CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES = 4,
  CU_JIT_ERROR_LOG_BUFFER = 5,
  CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6,
  CU_JIT_TARGET = 9,
  CU_JIT_INPUT_PTX = 1,
  CU_COMPUTE_ACCELERATED_TARGET_BASE = 0x10000, // added to 90 for sm_90a
};

enum : unsigned {
  CU_STREAM_NON_BLOCKING = 1,
  CU_STREAM_CAPTURE_MODE_RELAXED = 2,
  CU_EVENT_DEFAULT = 0,
  CU_EVENT_DISABLE_TIMING = 2,
  CU_MEMHOSTALLOC_PORTABLE = 1,
};

// CUtensorMapDataType and the other enumerations of cuTensorMapEncodeTiled
enum : int {
  CU_TENSOR_MAP_DATA_TYPE_UINT8 = 0,
  CU_TENSOR_MAP_DATA_TYPE_UINT16 = 1,
  CU_TENSOR_MAP_DATA_TYPE_UINT32 = 2,
  CU_TENSOR_MAP_DATA_TYPE_INT32 = 3,
  CU_TENSOR_MAP_DATA_TYPE_INT64 = 5,
  CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6,
  CU_TENSOR_MAP_DATA_TYPE_FLOAT32 = 7,
  CU_TENSOR_MAP_DATA_TYPE_FLOAT64 = 8,
  CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9,
  CU_TENSOR_MAP_INTERLEAVE_NONE = 0,
  CU_TENSOR_MAP_SWIZZLE_NONE = 0,
  CU_TENSOR_MAP_SWIZZLE_32B = 1,
  CU_TENSOR_MAP_SWIZZLE_64B = 2,
  CU_TENSOR_MAP_SWIZZLE_128B = 3,
  CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3,
  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0,
};

struct alignas(128) CUtensorMap { // 64 suffices; headers since 13.0 say 128
  uint64_t opaque[16];
};

constexpr int CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4;

struct CUlaunchAttribute {
  int id;
  int padding;
  union { // CUlaunchAttributeValue
    char bytes[64];
    unsigned clusterDim[3];
  };
};

struct CUlaunchConfig {
  unsigned gridDim[3];
  unsigned blockDim[3];
  unsigned sharedMemBytes;
  CUstream stream;
  CUlaunchAttribute *attributes;
  unsigned attributeCount;
};

struct CUgraphExecUpdateResultInfo {
  int result;
  void *errorNode, *errorFromNode;
};

static_assert(sizeof(CUtensorMap) == 128 && sizeof(CUlaunchAttribute) == 72 && sizeof(CUlaunchConfig) == 56 &&
                  sizeof(CUgraphExecUpdateResultInfo) == 24,
              "layouts of the driver API");

// X(member, symbol, parameters): what every driver since 12.3 exports.
#define DSC_RT_CUDA_FUNCTIONS(X)                                                                                       \
  X(getErrorName, "cuGetErrorName", (CUresult, const char **))                                                         \
  X(getErrorString, "cuGetErrorString", (CUresult, const char **))                                                     \
  X(deviceGetCount, "cuDeviceGetCount", (int *))                                                                       \
  X(deviceGet, "cuDeviceGet", (CUdevice *, int))                                                                       \
  X(deviceGetName, "cuDeviceGetName", (char *, int, CUdevice))                                                         \
  X(deviceGetAttribute, "cuDeviceGetAttribute", (int *, int, CUdevice))                                                \
  X(deviceTotalMem, "cuDeviceTotalMem_v2", (size_t *, CUdevice))                                                       \
  X(primaryRetain, "cuDevicePrimaryCtxRetain", (CUcontext *, CUdevice))                                                \
  X(primaryRelease, "cuDevicePrimaryCtxRelease_v2", (CUdevice))                                                        \
  X(ctxGetCurrent, "cuCtxGetCurrent", (CUcontext *))                                                                   \
  X(ctxPushCurrent, "cuCtxPushCurrent_v2", (CUcontext))                                                                \
  X(ctxPopCurrent, "cuCtxPopCurrent_v2", (CUcontext *))                                                                \
  X(moduleLoadDataEx, "cuModuleLoadDataEx", (CUmodule *, const void *, unsigned, int *, void **))                      \
  X(moduleUnload, "cuModuleUnload", (CUmodule))                                                                        \
  X(moduleGetFunction, "cuModuleGetFunction", (CUfunction *, CUmodule, const char *))                                  \
  X(funcSetAttribute, "cuFuncSetAttribute", (CUfunction, int, int))                                                    \
  X(linkCreate, "cuLinkCreate_v2", (unsigned, int *, void **, CUlinkState *))                                          \
  X(linkAddData, "cuLinkAddData_v2", (CUlinkState, int, void *, size_t, const char *, unsigned, int *, void **))       \
  X(linkComplete, "cuLinkComplete", (CUlinkState, void **, size_t *))                                                  \
  X(linkDestroy, "cuLinkDestroy", (CUlinkState))                                                                       \
  X(memGetInfo, "cuMemGetInfo_v2", (size_t *, size_t *))                                                               \
  X(memAlloc, "cuMemAlloc_v2", (CUdeviceptr *, size_t))                                                                \
  X(memFree, "cuMemFree_v2", (CUdeviceptr))                                                                            \
  X(memHostAlloc, "cuMemHostAlloc", (void **, size_t, unsigned))                                                       \
  X(memFreeHost, "cuMemFreeHost", (void *))                                                                            \
  X(memcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (CUdeviceptr, const void *, size_t, CUstream))                            \
  X(memcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void *, CUdeviceptr, size_t, CUstream))                                  \
  X(memcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", (CUdeviceptr, CUdeviceptr, size_t, CUstream))                             \
  X(memsetD8Async, "cuMemsetD8Async", (CUdeviceptr, unsigned char, size_t, CUstream))                                  \
  X(streamCreate, "cuStreamCreate", (CUstream *, unsigned))                                                            \
  X(streamDestroy, "cuStreamDestroy_v2", (CUstream))                                                                   \
  X(streamSynchronize, "cuStreamSynchronize", (CUstream))                                                              \
  X(streamWaitEvent, "cuStreamWaitEvent", (CUstream, CUevent, unsigned))                                               \
  X(streamBeginCapture, "cuStreamBeginCapture_v2", (CUstream, unsigned))                                               \
  X(streamEndCapture, "cuStreamEndCapture", (CUstream, CUgraph *))                                                     \
  X(eventCreate, "cuEventCreate", (CUevent *, unsigned))                                                               \
  X(eventDestroy, "cuEventDestroy_v2", (CUevent))                                                                      \
  X(eventRecord, "cuEventRecord", (CUevent, CUstream))                                                                 \
  X(eventQuery, "cuEventQuery", (CUevent))                                                                             \
  X(eventSynchronize, "cuEventSynchronize", (CUevent))                                                                 \
  X(eventElapsedTime, "cuEventElapsedTime", (float *, CUevent, CUevent))                                               \
  X(graphInstantiate, "cuGraphInstantiateWithFlags", (CUgraphExec *, CUgraph, unsigned long long))                     \
  X(graphExecUpdate, "cuGraphExecUpdate_v2", (CUgraphExec, CUgraph, CUgraphExecUpdateResultInfo *))                    \
  X(graphLaunch, "cuGraphLaunch", (CUgraphExec, CUstream))                                                             \
  X(graphExecDestroy, "cuGraphExecDestroy", (CUgraphExec))                                                             \
  X(graphDestroy, "cuGraphDestroy", (CUgraph))                                                                         \
  X(launchKernel, "cuLaunchKernel",                                                                                    \
    (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **))    \
  X(launchKernelEx, "cuLaunchKernelEx", (const CUlaunchConfig *, CUfunction, void **, void **))                        \
  X(tensorMapEncodeTiled, "cuTensorMapEncodeTiled",                                                                    \
    (CUtensorMap *, int, uint32_t, void *, const uint64_t *, const uint64_t *, const uint32_t *, const uint32_t *,     \
     int, int, int, int))

/// The functions of a loaded libcuda.
struct Driver {
  CUresult (*init)(unsigned);
  CUresult (*driverGetVersion)(int *);
#define DSC_RT_CUDA_MEMBER(member, symbol, parameters) CUresult(*member) parameters;
  DSC_RT_CUDA_FUNCTIONS(DSC_RT_CUDA_MEMBER)
#undef DSC_RT_CUDA_MEMBER
  CUresult (*funcGetParamInfo)(CUfunction, size_t, size_t *, size_t *); // null before 12.4
  int version;                                                          // 12030: CUDA 12.3
};

} // namespace dsc_rt

#endif // DSC_RT_CUDA_H
