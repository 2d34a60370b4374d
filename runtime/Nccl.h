//===- Nccl.h - The part of NCCL that we call (internal) ------------------===//
//
// Types, numbers and signatures as NCCL's user guide states them (API of NCCL 2,
// docs.nvidia.com/deeplearning/nccl). Nothing links to it.
//
//===----------------------------------------------------------------------===//

#ifndef DSC_RT_NCCL_H
#define DSC_RT_NCCL_H

#include "runtime/Cuda.h"

namespace dsc_rt {

using ncclResult_t = int;
using ncclComm_t = struct ncclComm *;

struct ncclUniqueId {
  char internal[128];
};

enum : int {
  ncclSuccess = 0,
  ncclInProgress = 7,
  ncclUint8 = 1,
  ncclInt32 = 2,
  ncclUint32 = 3,
  ncclInt64 = 4,
  ncclFloat16 = 6,
  ncclFloat32 = 7,
  ncclFloat64 = 8,
  ncclBfloat16 = 9,
  ncclSum = 0,
  ncclMax = 2,
};

// X(member, symbol, parameters)
#define DSC_RT_NCCL_FUNCTIONS(X)                                                                                       \
  X(getVersion, "ncclGetVersion", (int *))                                                                             \
  X(getUniqueId, "ncclGetUniqueId", (ncclUniqueId *))                                                                  \
  X(commInitRank, "ncclCommInitRank", (ncclComm_t *, int, ncclUniqueId, int))                                          \
  X(commDestroy, "ncclCommDestroy", (ncclComm_t))                                                                      \
  X(commAbort, "ncclCommAbort", (ncclComm_t))                                                                          \
  X(commGetAsyncError, "ncclCommGetAsyncError", (ncclComm_t, ncclResult_t *))                                          \
  X(allReduce, "ncclAllReduce", (const void *, void *, size_t, int, int, ncclComm_t, CUstream))                        \
  X(allGather, "ncclAllGather", (const void *, void *, size_t, int, ncclComm_t, CUstream))                             \
  X(reduceScatter, "ncclReduceScatter", (const void *, void *, size_t, int, int, ncclComm_t, CUstream))                \
  X(broadcast, "ncclBroadcast", (const void *, void *, size_t, int, int, ncclComm_t, CUstream))                        \
  X(send, "ncclSend", (const void *, size_t, int, int, ncclComm_t, CUstream))                                          \
  X(recv, "ncclRecv", (void *, size_t, int, int, ncclComm_t, CUstream))                                                \
  X(groupStart, "ncclGroupStart", ())                                                                                  \
  X(groupEnd, "ncclGroupEnd", ())

/// The functions of a loaded libnccl.
struct Nccl {
#define DSC_RT_NCCL_MEMBER(member, symbol, parameters) ncclResult_t(*member) parameters;
  DSC_RT_NCCL_FUNCTIONS(DSC_RT_NCCL_MEMBER)
#undef DSC_RT_NCCL_MEMBER
  const char *(*getErrorString)(ncclResult_t);
  const char *(*getLastError)(ncclComm_t); // null before 2.13
  int version;
};

} // namespace dsc_rt

#endif // DSC_RT_NCCL_H
