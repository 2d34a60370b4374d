//===- CudaModule.cpp - GPU code of a module ------------------------------===//
//
// dsc_rt_attach compiles PTX with the driver's own compiler (through its linker
// API, which returns the machine code for the cache) and loads the result; a
// launch then asks for a descriptor's function by its entry's name. If the
// linker API refuses, the PTX is loaded directly: its messages are the ones that
// are reported.
//
//===----------------------------------------------------------------------===//

#include "runtime/Context.h"
#include "runtime/CudaCache.h"
#include "runtime/CudaDevice.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

using namespace dsc_rt;

struct dsc_rt_code {
  Gpu *gpu;
  dsc_rt_module *module;
  const uint8_t *base; // where the module's descriptors lie
  size_t size;
  CUmodule code;
  dsc_rt_code *next;
};

namespace {

/// What ".target sm_90a" says.
struct Target {
  int capability; // 10 * major + minor, 0: the text does not say
  char suffix;    // 'a': this very architecture, 'f': its family, else '\0'
};

Target targetOf(const char *ptx) {
  for (const char *line = ptx; line; line = strchr(line, '\n')) {
    line += strspn(line, " \t\r\n");
    if (strncmp(line, ".target", 7) != 0)
      continue;
    const char *name = line + 7 + strspn(line + 7, " \t");
    if (strncmp(name, "sm_", 3) != 0)
      break;
    char *end;
    long capability = strtol(name + 3, &end, 10);
    return {static_cast<int>(capability), *end == 'a' || *end == 'f' ? *end : '\0'};
  }
  return {0, '\0'};
}

bool runs(const Gpu *gpu, Target target) {
  int capability = 10 * gpu->info.major + gpu->info.minor;
  if (target.suffix == 'a')
    return capability == target.capability;
  if (target.suffix == 'f' && capability / 10 != target.capability / 10)
    return false;
  return capability >= target.capability;
}

/// Options of the driver's compiler, and what it says.
struct Jit {
  char error[8192] = "", info[4096] = "";
  int options[5] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, CU_JIT_INFO_LOG_BUFFER,
                    CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, CU_JIT_TARGET};
  void *values[5] = {error, number(sizeof(error)), info, number(sizeof(info)), nullptr};
  unsigned count = 4;

  static void *number(size_t value) { return reinterpret_cast<void *>(value); }

  void write(const Gpu *gpu, CUresult result, char *message, size_t size) {
    char text[256];
    describeError(gpu->driver, result, text, sizeof(text));
    error[sizeof(error) - 1] = info[sizeof(info) - 1] = '\0';
    writeMessage(message, size, "%s does not take the GPU code: %s%s%s%s%s", gpu->info.name, text, *error ? "\n" : "",
                 error, *info ? "\n" : "", info);
  }
};

/// PTX to a cubin (malloc'd) with the driver's linker; null if it refuses.
void *compile(Gpu *gpu, const char *ptx, size_t size, Target target, size_t *cubinSize) {
  const Driver *driver = gpu->driver;
  Jit jit;
  if (target.suffix == 'a') { // else the linker takes the context's, without the suffix
    jit.values[4] = Jit::number(CU_COMPUTE_ACCELERATED_TARGET_BASE + target.capability);
    jit.count = 5;
  }
  CUlinkState state = nullptr;
  void *copy = nullptr, *cubin = nullptr;
  if (driver->linkCreate(jit.count, jit.options, jit.values, &state) != CUDA_SUCCESS)
    return nullptr;
  if (driver->linkAddData(state, CU_JIT_INPUT_PTX, const_cast<char *>(ptx), size + 1, "deepseek.ptx", 0, nullptr,
                          nullptr) == CUDA_SUCCESS &&
      driver->linkComplete(state, &cubin, cubinSize) == CUDA_SUCCESS && (copy = malloc(*cubinSize)))
    memcpy(copy, cubin, *cubinSize); // the state owns it
  driver->linkDestroy(state);
  return copy;
}

/// A copy (malloc'd) that ends with a NUL.
char *textOf(const void *image, size_t size) {
  auto *text = static_cast<char *>(malloc(size + 1));
  if (text) {
    memcpy(text, image, size);
    text[size] = '\0';
  }
  return text;
}

/// Whether an image is machine code: a cubin, or a fat binary.
bool isBinary(const void *image, size_t size) {
  return size >= 4 && (memcmp(image,
                              "\x7f"
                              "ELF",
                              4) == 0 ||
                       memcmp(image, "\x50\xed\x55\xba", 4) == 0);
}

/// Loads PTX text that ends with a NUL.
CUresult loadText(Gpu *gpu, const char *ptx, size_t size, Target target, const char *cache, CUmodule *code, Jit *jit) {
  const Driver *driver = gpu->driver;
  if (cache && *cache) {
    CubinKey key(ptx, size, gpu->info);
    size_t cubinSize = 0;
    void *cubin = readCubin(cache, key, &cubinSize);
    bool known = cubin != nullptr;
    if (!cubin)
      cubin = compile(gpu, ptx, size, target, &cubinSize);
    bool loaded = cubin && driver->moduleLoadDataEx(code, cubin, 0, nullptr, nullptr) == CUDA_SUCCESS;
    if (loaded && !known)
      writeCubin(cache, key, cubin, cubinSize);
    free(cubin);
    if (loaded)
      return CUDA_SUCCESS;
  }
  return driver->moduleLoadDataEx(code, ptx, 4, jit->options, jit->values);
}

CUresult loadImage(Gpu *gpu, const void *image, size_t size, const char *cache, CUmodule *code, Jit *jit,
                   Target *target) {
  *target = {0, '\0'};
  if (isBinary(image, size))
    return gpu->driver->moduleLoadDataEx(code, image, 4, jit->options, jit->values);
  char *text = textOf(image, size);
  if (!text)
    return CUDA_ERROR_OUT_OF_MEMORY;
  *target = targetOf(text);
  CUresult result = CUDA_SUCCESS;
  if (runs(gpu, *target))
    result = loadText(gpu, text, size, *target, cache, code, jit);
  free(text);
  return result;
}

void release(dsc_rt_code *code) {
  Gpu *gpu = code->gpu;
  Current current(gpu);
  gpu->driver->streamSynchronize(gpu->compute); // its kernels may be running
  gpu->kernels.eraseIf([&](void *value) {
    auto *kernel = static_cast<Kernel *>(value);
    auto *byte = reinterpret_cast<const uint8_t *>(kernel->descriptor);
    if (byte < code->base || byte >= code->base + code->size)
      return false;
    free(kernel);
    return true;
  });
  if (gpu->maps.entries) // they are known by the addresses of their descriptors
    memset(static_cast<void *>(gpu->maps.entries), 0, TensorMaps::kEntries * sizeof(TensorMaps::Entry));
  gpu->maps.count = 0;
  gpu->lastKernel = nullptr;
  gpu->driver->moduleUnload(code->code);
  free(code);
}

} // namespace

int dsc_rt_gpu_compile(dsc_rt_context *context, const void *image, size_t size, const char *cache) {
  Gpu *gpu = context->gpu;
  char *text = gpu && cache && *cache && !isBinary(image, size) ? textOf(image, size) : nullptr;
  if (!text)
    return 0;
  CubinKey key(text, size, gpu->info);
  size_t cubinSize = 0;
  void *cubin = readCubin(cache, key, &cubinSize);
  bool known = cubin != nullptr;
  Target target = targetOf(text);
  if (!known && runs(gpu, target)) {
    Current current(gpu);
    cubin = compile(gpu, text, size, target, &cubinSize);
    if (cubin)
      writeCubin(cache, key, cubin, cubinSize);
  }
  bool compiled = cubin && !known;
  free(cubin);
  free(text);
  return compiled;
}

dsc_rt_code *dsc_rt_attach(dsc_rt_module *module, dsc_rt_context *context, const void *image, size_t size,
                           const char *cache, char *message, size_t messageSize) {
  Gpu *gpu = context->gpu;
  if (messageSize)
    message[0] = '\0';
  if (!gpu) {
    writeMessage(message, messageSize, "the context is a thread pool, GPU code needs a GPU");
    return nullptr;
  }
  Current current(gpu);
  Jit jit;
  Target target;
  CUmodule code = nullptr;
  CUresult result = loadImage(gpu, image, size, cache, &code, &jit, &target);
  if (result != CUDA_SUCCESS) {
    jit.write(gpu, result, message, messageSize);
    return nullptr;
  }
  if (!code) {
    char suffix[2] = {target.suffix, '\0'};
    writeMessage(message, messageSize, "the GPU code is for sm_%d%s, %s is sm_%d%d: compile it for this GPU",
                 target.capability, suffix, gpu->info.name, gpu->info.major, gpu->info.minor);
    return nullptr;
  }
  auto *made = static_cast<dsc_rt_code *>(calloc(1, sizeof(dsc_rt_code)));
  if (!made) {
    gpu->driver->moduleUnload(code);
    writeMessage(message, messageSize, "out of memory");
    return nullptr;
  }
  *made = {gpu, module, nullptr, 0, code, gpu->attached};
  moduleRange(module, &made->base, &made->size);
  gpu->attached = made;
  return made;
}

void dsc_rt_detach(dsc_rt_code *code) {
  if (!code || forkedFromDriver())
    return;
  for (dsc_rt_code **link = &code->gpu->attached; *link; link = &(*link)->next)
    if (*link == code) {
      *link = code->next;
      break;
    }
  release(code);
}

void dsc_rt::detachModule(Gpu *gpu, const dsc_rt_module *module) {
  for (dsc_rt_code **link = &gpu->attached; *link;) {
    dsc_rt_code *code = *link;
    if (module && code->module != module) {
      link = &code->next;
      continue;
    }
    *link = code->next;
    if (!forkedFromDriver())
      release(code);
  }
}

bool dsc_rt::lookUpFunction(Gpu *gpu, const void *descriptor, Kernel *kernel) {
  auto *byte = static_cast<const uint8_t *>(descriptor);
  bool any = false;
  for (const dsc_rt_code *code = gpu->attached; code; code = code->next) {
    size_t offset = static_cast<size_t>(byte - code->base);
    if (byte < code->base || offset >= code->size)
      continue;
    // The object was not checked: the descriptor, its maps and its name must lie in the mapping.
    size_t left = code->size - offset;
    auto *found = static_cast<const dsc_rt_gpu_kernel *>(descriptor);
    if (left < sizeof(*found) || offset % alignof(dsc_rt_gpu_kernel) || found->magic != DSC_RT_GPU_KERNEL)
      return gpu->fail("a launch names no GPU kernel: the program was compiled for a CPU");
    size_t maps = static_cast<size_t>(found->map_count) * sizeof(dsc_rt_tensor_map);
    if (found->map_count < 0 || maps / sizeof(dsc_rt_tensor_map) != static_cast<size_t>(found->map_count) ||
        maps > left - sizeof(*found))
      return gpu->fail("the descriptor of a GPU kernel is damaged: %d tensor maps", found->map_count);
    kernel->descriptor = found;
    kernel->maps = reinterpret_cast<const dsc_rt_tensor_map *>(found + 1);
    kernel->name = reinterpret_cast<const char *>(kernel->maps + found->map_count);
    size_t room = left - sizeof(*found) - maps;
    if (room == 0 || !memchr(kernel->name, 0, room))
      return gpu->fail("the descriptor of a GPU kernel is damaged: its name does not end");
    any = true;
    if (gpu->driver->moduleGetFunction(&kernel->function, code->code, kernel->name) == CUDA_SUCCESS)
      return true;
  }
  if (any)
    return gpu->fail("the GPU code has no kernel \"%s\": it is not that of this program", kernel->name);
  return gpu->fail("a launch on a GPU of a program without GPU code (dsc_rt_attach)");
}
