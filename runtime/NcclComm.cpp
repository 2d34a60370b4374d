//===- NcclComm.cpp - Collectives between GPUs ----------------------------===//
//
// Loads NCCL when first asked for and issues its collectives on the stream of a
// GPU context. Errors become those of the context.
//
//===----------------------------------------------------------------------===//

#include "runtime/CudaDevice.h"
#include "runtime/Nccl.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

using namespace dsc_rt;

static_assert(sizeof(ncclUniqueId) == DSC_RT_COMM_ID_BYTES, "the id of a group");

struct dsc_rt_comm {
  Gpu *gpu;
  ncclComm_t comm; // null after an abort
  int ranks, rank;
};

namespace {

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
Nccl nccl;
bool loaded;

template <typename Function> bool resolve(void *library, const char *symbol, Function *function) {
  *function = reinterpret_cast<Function>(dlsym(library, symbol));
  return *function != nullptr;
}

bool load(const char *path, char *message, size_t size) {
  if (!path || !*path)
    path = getenv("DEEPSEEK_LIBNCCL");
  if (!path || !*path)
    path = "libnccl.so.2";
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *reason = dlerror();
    return writeMessage(message, size, "several GPUs need NCCL: pip install nvidia-nccl-cu13 (%s)",
                        reason ? reason : path);
  }
  Nccl found = {};
  const char *missing = nullptr;
#define DSC_RT_NCCL_RESOLVE(member, symbol, parameters)                                                                \
  if (!resolve(library, symbol, &found.member))                                                                        \
    missing = symbol;
  DSC_RT_NCCL_FUNCTIONS(DSC_RT_NCCL_RESOLVE)
#undef DSC_RT_NCCL_RESOLVE
  if (!resolve(library, "ncclGetErrorString", &found.getErrorString))
    missing = "ncclGetErrorString";
  if (missing) {
    dlclose(library);
    return writeMessage(message, size, "%s lacks the function %s: pip install nvidia-nccl-cu13", path, missing);
  }
  resolve(library, "ncclGetLastError", &found.getLastError);
  found.getVersion(&found.version);
  nccl = found;
  loaded = true;
  return true;
}

/// "ncclAllReduce: remote process exited or there was a network error (...)".
void describe(ncclResult_t result, ncclComm_t comm, const char *what, char *out, size_t size) {
  const char *last = nccl.getLastError ? nccl.getLastError(comm) : nullptr;
  bool more = last && *last;
  writeMessage(out, size, "%s: NCCL error %d, %s%s%s%s", what, result, nccl.getErrorString(result), more ? " (" : "",
               more ? last : "", more ? ")" : "");
}

/// Keeps an error of NCCL as the context's; returns the context's error.
int check(dsc_rt_comm *comm, ncclResult_t result, const char *what) {
  if (result == ncclSuccess || result == ncclInProgress)
    return comm->gpu->error;
  char text[512];
  describe(result, comm->comm, what, text, sizeof(text));
  comm->gpu->fail("%s", text);
  return comm->gpu->error;
}

int typeOf(int element) {
  switch (element) {
  case DSC_RT_U8:
    return ncclUint8;
  case DSC_RT_U32:
    return ncclUint32;
  case DSC_RT_I32:
    return ncclInt32;
  case DSC_RT_I64:
    return ncclInt64;
  case DSC_RT_F16:
    return ncclFloat16;
  case DSC_RT_BF16:
    return ncclBfloat16;
  case DSC_RT_F32:
    return ncclFloat32;
  case DSC_RT_F64:
    return ncclFloat64;
  default:
    return -1;
  }
}

int64_t bytesOf(int type) {
  return type == ncclUint8                             ? 1
         : type == ncclFloat16 || type == ncclBfloat16 ? 2
         : type == ncclInt64 || type == ncclFloat64    ? 8
                                                       : 4;
}

int operationOf(int operation) { return operation == DSC_RT_SUM ? ncclSum : operation == DSC_RT_MAX ? ncclMax : -1; }

/// Whether the collective may be issued: arguments make sense, there was no error, the group is whole.
bool ready(dsc_rt_comm *comm, const char *what, int64_t count, int element, int operation = DSC_RT_SUM, int peer = 0) {
  Gpu *gpu = comm->gpu;
  if (gpu->error)
    return false;
  if (!comm->comm)
    return gpu->fail("%s: the group was aborted", what);
  if (count < 0 || typeOf(element) < 0 || operationOf(operation) < 0 || peer < 0 || peer >= comm->ranks)
    return gpu->fail("%s: %lld elements of type %d, operation %d, rank %d of %d", what, (long long)count, element,
                     operation, peer, comm->ranks);
  return true;
}

} // namespace

//===----------------------------------------------------------------------===//
// Groups
//===----------------------------------------------------------------------===//

int dsc_rt_comm_load(const char *path, char *message, size_t size) {
  if (size)
    message[0] = '\0';
  pthread_mutex_lock(&lock);
  bool found = loaded || load(path, message, size);
  pthread_mutex_unlock(&lock);
  return found ? nccl.version : -1;
}

int dsc_rt_comm_id(void *id, char *message, size_t size) {
  if (dsc_rt_comm_load(nullptr, message, size) < 0)
    return -1;
  ncclUniqueId made;
  ncclResult_t result = nccl.getUniqueId(&made);
  if (result != ncclSuccess) {
    describe(result, nullptr, "the id of a new group", message, size);
    return result;
  }
  memcpy(id, &made, sizeof(made));
  return 0;
}

dsc_rt_comm *dsc_rt_comm_create(dsc_rt_context *context, const void *id, int ranks, int rank, char *message,
                                size_t size) {
  Gpu *gpu = gpuOf(context);
  if (dsc_rt_comm_load(nullptr, message, size) < 0)
    return nullptr;
  if (!gpu || ranks < 1 || rank < 0 || rank >= ranks) {
    writeMessage(message, size, "there is no rank %d of %d on this context", rank, ranks);
    return nullptr;
  }
  auto *made = static_cast<dsc_rt_comm *>(calloc(1, sizeof(dsc_rt_comm)));
  if (!made) {
    writeMessage(message, size, "out of memory");
    return nullptr;
  }
  Current current(gpu); // NCCL takes the device of the current context
  ncclUniqueId copy;
  memcpy(&copy, id, sizeof(copy));
  *made = {gpu, nullptr, ranks, rank};
  ncclResult_t result = nccl.commInitRank(&made->comm, ranks, copy, rank);
  if (result == ncclSuccess)
    return made;
  describe(result, nullptr, "joining the group", message, size);
  free(made);
  return nullptr;
}

int dsc_rt_comm_check(dsc_rt_comm *comm) {
  Gpu *gpu = comm->gpu;
  if (gpu->error || !comm->comm)
    return gpu->error;
  ncclResult_t state = ncclSuccess;
  ncclResult_t result = nccl.commGetAsyncError(comm->comm, &state);
  return check(comm, result != ncclSuccess ? result : state, "a collective failed");
}

int dsc_rt_comm_abort(dsc_rt_comm *comm) {
  if (!comm->comm)
    return 0;
  ncclComm_t aborted = comm->comm;
  comm->comm = nullptr;
  Current current(comm->gpu);
  return nccl.commAbort(aborted) == ncclSuccess ? 0 : -1;
}

void dsc_rt_comm_destroy(dsc_rt_comm *comm) {
  if (!comm)
    return;
  if (comm->comm && !forkedFromDriver()) {
    Current current(comm->gpu);
    ncclResult_t state = ncclSuccess;
    nccl.commGetAsyncError(comm->comm, &state);
    if (state == ncclSuccess) {
      comm->gpu->driver->streamSynchronize(comm->gpu->compute);
      nccl.commDestroy(comm->comm);
    } else {
      nccl.commAbort(comm->comm); // its work would never end
    }
  }
  free(comm);
}

//===----------------------------------------------------------------------===//
// Collectives
//===----------------------------------------------------------------------===//

int dsc_rt_comm_all_reduce(dsc_rt_comm *comm, void *target, const void *source, int64_t count, int element,
                           int operation) {
  Gpu *gpu = comm->gpu;
  if (!ready(comm, "all_reduce", count, element, operation))
    return gpu->error;
  Current current(gpu);
  return check(comm,
               nccl.allReduce(source, target, static_cast<size_t>(count), typeOf(element), operationOf(operation),
                              comm->comm, gpu->compute),
               "all_reduce");
}

int dsc_rt_comm_all_gather(dsc_rt_comm *comm, void *target, const void *source, int64_t count, int element) {
  Gpu *gpu = comm->gpu;
  if (!ready(comm, "all_gather", count, element))
    return gpu->error;
  Current current(gpu);
  return check(comm,
               nccl.allGather(source, target, static_cast<size_t>(count), typeOf(element), comm->comm, gpu->compute),
               "all_gather");
}

int dsc_rt_comm_reduce_scatter(dsc_rt_comm *comm, void *target, const void *source, int64_t count, int element,
                               int operation) {
  Gpu *gpu = comm->gpu;
  if (!ready(comm, "reduce_scatter", count, element, operation))
    return gpu->error;
  Current current(gpu);
  return check(comm,
               nccl.reduceScatter(source, target, static_cast<size_t>(count), typeOf(element), operationOf(operation),
                                  comm->comm, gpu->compute),
               "reduce_scatter");
}

int dsc_rt_comm_all_to_all(dsc_rt_comm *comm, void *target, const void *source, int64_t count, int element) {
  Gpu *gpu = comm->gpu;
  if (!ready(comm, "all_to_all", count, element))
    return gpu->error;
  Current current(gpu);
  int type = typeOf(element);
  int64_t part = count * bytesOf(type);
  ncclResult_t result = nccl.groupStart();
  for (int peer = 0; peer < comm->ranks && result == ncclSuccess; ++peer) {
    result = nccl.send(static_cast<const char *>(source) + peer * part, static_cast<size_t>(count), type, peer,
                       comm->comm, gpu->compute);
    if (result == ncclSuccess)
      result = nccl.recv(static_cast<char *>(target) + peer * part, static_cast<size_t>(count), type, peer, comm->comm,
                         gpu->compute);
  }
  ncclResult_t ended = nccl.groupEnd(); // also after an error
  return check(comm, result != ncclSuccess ? result : ended, "all_to_all");
}

int dsc_rt_comm_broadcast(dsc_rt_comm *comm, void *target, const void *source, int64_t count, int element, int root) {
  Gpu *gpu = comm->gpu;
  if (!ready(comm, "broadcast", count, element, DSC_RT_SUM, root))
    return gpu->error;
  Current current(gpu);
  return check(
      comm, nccl.broadcast(source, target, static_cast<size_t>(count), typeOf(element), root, comm->comm, gpu->compute),
      "broadcast");
}

int dsc_rt_comm_send(dsc_rt_comm *comm, const void *source, int64_t count, int element, int peer) {
  Gpu *gpu = comm->gpu;
  if (!ready(comm, "send", count, element, DSC_RT_SUM, peer))
    return gpu->error;
  Current current(gpu);
  return check(comm, nccl.send(source, static_cast<size_t>(count), typeOf(element), peer, comm->comm, gpu->compute),
               "send");
}

int dsc_rt_comm_receive(dsc_rt_comm *comm, void *target, int64_t count, int element, int peer) {
  Gpu *gpu = comm->gpu;
  if (!ready(comm, "receive", count, element, DSC_RT_SUM, peer))
    return gpu->error;
  Current current(gpu);
  return check(comm, nccl.recv(target, static_cast<size_t>(count), typeOf(element), peer, comm->comm, gpu->compute),
               "receive");
}

int dsc_rt_comm_group_begin(dsc_rt_comm *comm) {
  return comm->gpu->error ? comm->gpu->error : check(comm, nccl.groupStart(), "a group of transfers");
}

int dsc_rt_comm_group_end(dsc_rt_comm *comm) {
  return check(comm, nccl.groupEnd(), "a group of transfers"); // also after an error: it was begun
}
