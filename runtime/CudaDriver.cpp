//===- CudaDriver.cpp - Finds libcuda and its devices ---------------------===//
//
// Loads the driver once, when a GPU is first asked for, and says in one
// sentence why there is none. A failure is not remembered: the next call looks
// again.
//
//===----------------------------------------------------------------------===//

#include "runtime/CudaDevice.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

using namespace dsc_rt;

namespace {

constexpr int kOldestDriver = 12030; // PTX 8.3; sm_90a needs 8.0, which came with 12.0
constexpr int kOldestCapability = 80;

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
Driver driver;
bool loaded;
pid_t owner; // the process that loaded it

template <typename Function> bool resolve(void *library, const char *symbol, Function *function) {
  *function = reinterpret_cast<Function>(dlsym(library, symbol));
  return *function != nullptr;
}

int64_t attributeOf(CUdevice device, int attribute) {
  int value = 0;
  driver.deviceGetAttribute(&value, attribute, device);
  return value;
}

/// Fills `driver` and initializes CUDA; returns one of DSC_RT_GPU_*.
int load(char *message, size_t size) {
  const char *path = getenv("DEEPSEEK_LIBCUDA");
  if (!path || !*path)
    path = "libcuda.so.1";
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *reason = dlerror();
    writeMessage(message, size, "no NVIDIA driver: %s", reason ? reason : path);
    return DSC_RT_GPU_NO_DRIVER;
  }
  auto close = [&](int result) { // dlclose only before cuInit, which may start threads
    dlclose(library);
    return result;
  };
  Driver found = {};
  if (!resolve(library, "cuDriverGetVersion", &found.driverGetVersion) || !resolve(library, "cuInit", &found.init)) {
    writeMessage(message, size, "%s is no CUDA driver: it has no cuDriverGetVersion or cuInit", path);
    return close(DSC_RT_GPU_NO_DRIVER);
  }
  found.driverGetVersion(&found.version);
  if (found.version < kOldestDriver) {
    writeMessage(message, size,
                 "the NVIDIA driver supports CUDA %d.%d, compiled code needs %d.%d or newer: update the driver",
                 found.version / 1000, found.version % 1000 / 10, kOldestDriver / 1000, kOldestDriver % 1000 / 10);
    return close(DSC_RT_GPU_OLD_DRIVER);
  }
  const char *missing = nullptr;
#define DSC_RT_CUDA_RESOLVE(member, symbol, parameters)                                                                \
  if (!resolve(library, symbol, &found.member))                                                                        \
    missing = symbol;
  DSC_RT_CUDA_FUNCTIONS(DSC_RT_CUDA_RESOLVE)
#undef DSC_RT_CUDA_RESOLVE
  if (missing) {
    writeMessage(message, size, "%s lacks the function %s: reinstall the NVIDIA driver", path, missing);
    return close(DSC_RT_GPU_NO_DRIVER);
  }
  resolve(library, "cuFuncGetParamInfo", &found.funcGetParamInfo);
  CUresult result = found.init(0);
  if (result == CUDA_ERROR_NO_DEVICE) {
    writeMessage(message, size,
                 "the NVIDIA driver finds no GPU: is one passed to this container, and visible "
                 "(CUDA_VISIBLE_DEVICES)?");
    return DSC_RT_GPU_NO_DEVICE;
  }
  if (result != CUDA_SUCCESS) {
    char text[256];
    describeError(&found, result, text, sizeof(text));
    writeMessage(message, size, "the NVIDIA driver does not start: cuInit: %s", text);
    return DSC_RT_GPU_DRIVER_FAILED;
  }
  driver = found;
  loaded = true;
  owner = getpid();
  return DSC_RT_GPU_USABLE;
}

} // namespace

bool dsc_rt::writeMessage(char *message, size_t size, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  if (size)
    vsnprintf(message, size, format, arguments);
  va_end(arguments);
  return false;
}

void dsc_rt::describeError(const Driver *from, CUresult result, char *out, size_t size) {
  const char *name = nullptr, *text = nullptr;
  if (from->getErrorName(result, &name) != CUDA_SUCCESS || !name)
    writeMessage(out, size, "CUDA error %d", result);
  else if (from->getErrorString(result, &text) != CUDA_SUCCESS || !text)
    writeMessage(out, size, "%s", name);
  else
    writeMessage(out, size, "%s (%s)", name, text);
}

const Driver *dsc_rt::loadDriver(char *message, size_t size, int *reason) {
  if (size)
    message[0] = '\0';
  pthread_mutex_lock(&lock);
  int result = DSC_RT_GPU_USABLE;
  if (loaded && owner != getpid()) {
    writeMessage(message, size,
                 "this process is a fork of one that uses CUDA, which does not survive it: start processes by spawn");
    result = DSC_RT_GPU_DRIVER_FAILED;
  } else if (!loaded) {
    result = load(message, size);
  }
  pthread_mutex_unlock(&lock);
  if (reason)
    *reason = result;
  return result == DSC_RT_GPU_USABLE ? &driver : nullptr;
}

bool dsc_rt::forkedFromDriver() { return loaded && owner != getpid(); }

int dsc_rt_gpu_count(void) {
  const Driver *cuda = loadDriver(nullptr, 0, nullptr);
  int count = 0;
  return cuda && cuda->deviceGetCount(&count) == CUDA_SUCCESS ? count : 0;
}

int dsc_rt_gpu_info(int index, dsc_rt_gpu_device *info, char *message, size_t size) {
  const Driver *cuda = loadDriver(message, size, nullptr);
  if (!cuda)
    return 1;
  int count = 0;
  CUdevice device;
  cuda->deviceGetCount(&count);
  if (index < 0 || index >= count) {
    writeMessage(message, size, "there is no GPU %d: this machine has %d", index, count);
    return 1;
  }
  *info = {};
  size_t memory = 0;
  CUresult result = cuda->deviceGet(&device, index);
  if (result == CUDA_SUCCESS)
    result = cuda->deviceGetName(info->name, sizeof(info->name), device);
  if (result == CUDA_SUCCESS)
    result = cuda->deviceTotalMem(&memory, device);
  if (result != CUDA_SUCCESS) {
    char text[256];
    describeError(cuda, result, text, sizeof(text));
    writeMessage(message, size, "GPU %d cannot be asked for its properties: %s", index, text);
    return 1;
  }
  auto get = [&](int attribute) { return static_cast<int32_t>(attributeOf(device, attribute)); };
  info->major = get(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  info->minor = get(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  info->multiprocessors = get(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  info->shared_bytes = get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  info->clock_khz = get(CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
  info->l2_bytes = get(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  info->driver = cuda->version;
  info->memory_bytes = static_cast<int64_t>(memory);
  return 0;
}

int dsc_rt_gpu_probe(char *message, size_t size) {
  int reason;
  const Driver *cuda = loadDriver(message, size, &reason);
  if (!cuda)
    return reason;
  int count = dsc_rt_gpu_count();
  if (count == 0) {
    writeMessage(message, size, "the NVIDIA driver finds no GPU: is CUDA_VISIBLE_DEVICES empty?");
    return DSC_RT_GPU_NO_DEVICE;
  }
  dsc_rt_gpu_device info;
  for (int i = 0; i < count; ++i) {
    if (dsc_rt_gpu_info(i, &info, message, size) != 0)
      return DSC_RT_GPU_DRIVER_FAILED;
    if (10 * info.major + info.minor >= kOldestCapability)
      return DSC_RT_GPU_USABLE;
  }
  writeMessage(message, size, "%s has compute capability %d.%d, compiled code needs 8.0 (A100) or newer", info.name,
               info.major, info.minor);
  return DSC_RT_GPU_OLD_DEVICE;
}
