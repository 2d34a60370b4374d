//===- CudaContext.cpp - GPU contexts, their errors and events ------------===//
//
// A context retains its device's primary context, so that other libraries of
// the process see the same memory, and makes it current only during a call.
// Work goes to one stream; a second one carries uploads and downloads. The
// first error stays until it is read, and makes later calls do nothing.
//
//===----------------------------------------------------------------------===//

#include "runtime/Context.h"
#include "runtime/CudaDevice.h"

#include <initializer_list>
#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

using namespace dsc_rt;

struct dsc_rt_gpu_event {
  Gpu *gpu;
  CUevent event;
};

namespace {

pthread_mutex_t listLock = PTHREAD_MUTEX_INITIALIZER;
Gpu *allGpus;

/// Makes streams and events; the context is current.
bool open(Gpu *gpu) {
  const Driver *driver = gpu->driver;
  return gpu->ok(driver->streamCreate(&gpu->compute, CU_STREAM_NON_BLOCKING), "making a stream") &&
         gpu->ok(driver->streamCreate(&gpu->copies, CU_STREAM_NON_BLOCKING), "making a stream") &&
         gpu->ok(driver->eventCreate(&gpu->staging.order, CU_EVENT_DISABLE_TIMING), "making an event");
}

} // namespace

//===----------------------------------------------------------------------===//
// Errors
//===----------------------------------------------------------------------===//

void Gpu::keep(CUresult result, const char *format, va_list arguments) {
  if (error)
    return;
  error = result;
  requested = deviceFree = deviceTotal = 0;
  int length = vsnprintf(message, sizeof(message), format, arguments);
  if (result <= 0 || length < 0 || length >= static_cast<int>(sizeof(message)) - 2)
    return;
  memcpy(message + length, ": ", 3);
  describeError(driver, result, message + length + 2, sizeof(message) - length - 2);
}

bool Gpu::ok(CUresult result, const char *format, ...) {
  if (result == CUDA_SUCCESS)
    return true;
  va_list arguments;
  va_start(arguments, format);
  keep(result, format, arguments);
  va_end(arguments);
  return false;
}

bool Gpu::fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  keep(-1, format, arguments);
  va_end(arguments);
  return false;
}

int dsc_rt_gpu_error(dsc_rt_context *context, char *message, size_t size) {
  Gpu *gpu = context->gpu;
  int error = gpu->error;
  writeMessage(message, size, "%s", error ? gpu->message : "");
  gpu->error = 0;
  return error;
}

//===----------------------------------------------------------------------===//
// Contexts
//===----------------------------------------------------------------------===//

Gpu *dsc_rt::gpuOf(dsc_rt_context *context) { return context->gpu; }

dsc_rt_context *dsc_rt_create_gpu(int device, char *message, size_t size) {
  const Driver *driver = loadDriver(message, size, nullptr);
  dsc_rt_gpu_device info;
  if (!driver || dsc_rt_gpu_info(device, &info, message, size) != 0)
    return nullptr;
  if (info.major < 8) {
    writeMessage(message, size, "GPU %d, %s, has compute capability %d.%d, compiled code needs 8.0 (A100) or newer",
                 device, info.name, info.major, info.minor);
    return nullptr;
  }
  void *memory = nullptr;
  auto *gpu = static_cast<Gpu *>(calloc(1, sizeof(Gpu)));
  if (!gpu || posix_memalign(&memory, alignof(dsc_rt_context), sizeof(dsc_rt_context))) {
    free(gpu);
    writeMessage(message, size, "out of memory");
    return nullptr;
  }
  auto *context = new (memory) dsc_rt_context{};
  context->gpu = gpu;
  gpu->driver = driver;
  gpu->info = info;
  gpu->lastDispatch = -1;
  const char *waits = getenv("DEEPSEEK_CUDA_SYNC");
  gpu->waits = waits && strcmp(waits, "1") == 0;
  pthread_mutex_init(&gpu->pool.lock, nullptr);

  bool opened = gpu->ok(driver->deviceGet(&gpu->device, device), "GPU %d", device) &&
                gpu->ok(driver->primaryRetain(&gpu->primary, gpu->device), "making a context of GPU %d", device);
  if (opened) {
    Current current(gpu);
    opened = open(gpu);
  }
  if (!opened) {
    writeMessage(message, size, "%s", gpu->message);
    gpuDestroy(gpu);
    free(context);
    return nullptr;
  }
  pthread_mutex_lock(&listLock);
  gpu->next = allGpus;
  allGpus = gpu;
  pthread_mutex_unlock(&listLock);
  return context;
}

void dsc_rt::gpuDestroy(Gpu *gpu) {
  pthread_mutex_lock(&listLock);
  for (Gpu **link = &allGpus; *link; link = &(*link)->next)
    if (*link == gpu) {
      *link = gpu->next;
      break;
    }
  pthread_mutex_unlock(&listLock);
  if (gpu->primary && !forkedFromDriver()) { // in a fork nothing of it may be touched
    {
      Current current(gpu);
      const Driver *driver = gpu->driver;
      if (gpu->compute)
        driver->streamSynchronize(gpu->compute);
      detachModule(gpu, nullptr);
      freeProfile(gpu);
      freeStaging(gpu);
      releaseRetired(gpu);
      poolDestroy(gpu);
      for (CUevent event : {gpu->staging.order, gpu->branches.fork})
        if (event)
          driver->eventDestroy(event);
      for (CUevent event : gpu->branches.joins)
        if (event)
          driver->eventDestroy(event);
      for (CUstream stream : gpu->branches.streams)
        if (stream)
          driver->streamDestroy(stream);
      for (CUstream stream : {gpu->copies, gpu->compute})
        if (stream)
          driver->streamDestroy(stream);
    }
    gpu->driver->primaryRelease(gpu->device);
  }
  pthread_mutex_destroy(&gpu->pool.lock);
  free(gpu);
}

void dsc_rt::gpuForget(dsc_rt_module *module) {
  // Contexts are not destroyed meanwhile: the host ends neither beside calls that use them.
  pthread_mutex_lock(&listLock);
  for (Gpu *gpu = allGpus; gpu; gpu = gpu->next)
    detachModule(gpu, module);
  pthread_mutex_unlock(&listLock);
}

int dsc_rt_gpu_synchronize(dsc_rt_context *context) {
  Gpu *gpu = context->gpu;
  if (gpu->error)
    return gpu->error;
  Current current(gpu);
  CUresult result = gpu->driver->streamSynchronize(gpu->compute);
  if (result == CUDA_SUCCESS)
    result = gpu->driver->streamSynchronize(gpu->copies);
  if (result != CUDA_SUCCESS && gpu->lastKernel)
    gpu->ok(result,
            "waiting for the GPU (the last launch was \"%s\" of dispatch %d, $DEEPSEEK_CUDA_SYNC=1 names the "
            "one that fails)",
            gpu->lastKernel, gpu->lastDispatch);
  else
    gpu->ok(result, "waiting for the GPU");
  return gpu->error;
}

void *dsc_rt_gpu_stream(dsc_rt_context *context) { return context->gpu->compute; }

//===----------------------------------------------------------------------===//
// Events
//===----------------------------------------------------------------------===//

dsc_rt_gpu_event *dsc_rt_gpu_event_create(dsc_rt_context *context) {
  Gpu *gpu = context->gpu;
  if (gpu->error)
    return nullptr;
  Current current(gpu);
  CUevent event;
  if (!gpu->ok(gpu->driver->eventCreate(&event, CU_EVENT_DEFAULT), "making an event"))
    return nullptr;
  auto *made = static_cast<dsc_rt_gpu_event *>(malloc(sizeof(dsc_rt_gpu_event)));
  if (!made) {
    gpu->driver->eventDestroy(event);
    gpu->fail("out of host memory");
    return nullptr;
  }
  *made = {gpu, event};
  return made;
}

void dsc_rt_gpu_event_destroy(dsc_rt_gpu_event *event) {
  if (!event)
    return;
  if (!forkedFromDriver()) {
    Current current(event->gpu);
    event->gpu->driver->eventDestroy(event->event);
  }
  free(event);
}

int dsc_rt_gpu_event_record(dsc_rt_gpu_event *event) {
  Gpu *gpu = event->gpu;
  if (gpu->error)
    return gpu->error;
  Current current(gpu);
  gpu->ok(gpu->driver->eventRecord(event->event, gpu->compute), "recording an event");
  return gpu->error;
}

int dsc_rt_gpu_event_synchronize(dsc_rt_gpu_event *event) {
  Gpu *gpu = event->gpu;
  if (gpu->error)
    return gpu->error;
  Current current(gpu);
  gpu->ok(gpu->driver->eventSynchronize(event->event), "waiting for an event");
  return gpu->error;
}

int dsc_rt_gpu_event_done(dsc_rt_gpu_event *event) {
  Gpu *gpu = event->gpu;
  if (gpu->error)
    return -1;
  Current current(gpu);
  CUresult result = gpu->driver->eventQuery(event->event);
  if (result == CUDA_ERROR_NOT_READY)
    return 0;
  return gpu->ok(result, "asking for an event") ? 1 : -1;
}

double dsc_rt_gpu_event_elapsed(dsc_rt_gpu_event *from, dsc_rt_gpu_event *to) {
  Gpu *gpu = from->gpu;
  if (gpu->error)
    return -1;
  Current current(gpu);
  float milliseconds = 0;
  if (!gpu->ok(gpu->driver->eventElapsedTime(&milliseconds, from->event, to->event), "the time between two events"))
    return -1;
  return milliseconds;
}
