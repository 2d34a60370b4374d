/* A libcuda.so.1 without a GPU, for tests: the functions of the driver that libdsc_rt calls, on the host's memory.
 *
 * Work is done as late as CUDA allows: a stream's operations wait until something waits for them, so what is not ordered
 * by streams and events shows as wrong bytes. An operation on memory that is not allocated is an illegal address, which
 * every later call returns. Kernels are those of the PTX; one whose name starts with "copy" copies dims[0] bytes from its
 * first buffer to its second, the others do nothing, unless fake_cuda_launcher names what runs them all. Calls are written
 * to a log; fake_cuda_fail makes one fail.
 *
 * Environment, read at each call: FAKE_CUDA_VERSION (12040), FAKE_CUDA_DEVICES (1), FAKE_CUDA_CAPABILITY (90),
 * FAKE_CUDA_MULTIPROCESSORS (132), FAKE_CUDA_MEMORY (bytes of a device), FAKE_CUDA_FAIL (function:code, from the start). */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, INVALID_PTX = 218, NOT_FOUND = 500,
       NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900, CAPTURE_UNJOINED = 904, UPDATE_FAILURE = 910 };

typedef uint64_t Address;
typedef struct Stream Stream;
typedef struct Event Event;
typedef struct Graph Graph;

typedef struct {
  char name[128], *ptx;
  size_t sizes[64];
  int count, shared;
} Function;

enum Kind { UPLOAD, DOWNLOAD, COPY, FILL, RECORD, WAIT, LAUNCH };
typedef struct Op {
  enum Kind kind;
  Stream *stream;
  void *host;
  Address target, source;
  size_t bytes;
  int value, done;
  Event *event;
  struct Op *awaited; /* of WAIT */
  Function *function;
  unsigned grid, block, shared, cluster;
  unsigned char parameters[4096];
  struct Op *next;
} Op;

struct Stream {
  int index;
  Op *head, *tail;
  Graph *capture;
  int unjoined;
};
struct Event {
  Op *last;
  Graph *capture;
  Stream *captured; /* where it was recorded in a capture */
  double time;
};
struct Graph {
  Stream *origin;
  Op *ops[4096];
  int count;
};

/* Runs a kernel of `ptx`; nonzero: it failed. */
typedef int Launcher(const char *name, const char *ptx, unsigned grid, unsigned block, unsigned shared,
                     unsigned cluster, const unsigned char *parameters);
static Launcher *launcher;

static char log_text[1 << 20];
static size_t log_size;
static struct { char name[64]; int code, after; } failure;
static int sticky;
static double clock_ms;
static Stream *streams[64];
static int stream_count;
static struct { char *data; size_t bytes; int pinned; } memory[4096];
static int memory_count;
static size_t memory_used;
static int contexts[8]; /* by device; their addresses are the handles */
static __thread int *current[16];
static __thread int depth;
static int live_objects; /* streams, events, graphs, modules, pinned memory, links */
/* Several threads may compile at a time; nothing else is called so. */
static pthread_mutex_t linking = PTHREAD_MUTEX_INITIALIZER;
static int links, most_links;

static long number(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

static void write_log(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(log_text + log_size, sizeof(log_text) - log_size, format, arguments);
  va_end(arguments);
  if (length > 0 && log_size + length < sizeof(log_text))
    log_size += length;
}

const char *fake_cuda_log(void) { return log_text; }
void fake_cuda_clear(void) { log_text[log_size = 0] = '\0'; }
int fake_cuda_depth(void) { return depth; }
int fake_cuda_live(void) { return live_objects; }
int fake_cuda_most_links(void) { return most_links; }
long fake_cuda_used(void) { return memory_used; }
void fake_cuda_launcher(Launcher *run) { launcher = run; }

/* The allocation of a device that follows the one of number `after` (-1: the first); its number, -1: there is none. */
int fake_cuda_memory(int after, char **data, size_t *bytes) {
  while (++after < memory_count)
    if (memory[after].data && !memory[after].pinned) {
      *data = memory[after].data;
      *bytes = memory[after].bytes;
      return after;
    }
  return -1;
}

/* The call `after` (0: the next) of `function` returns `code`, once. */
void fake_cuda_fail(const char *function, int code, int after) {
  snprintf(failure.name, sizeof(failure.name), "%s", function);
  failure.code = code;
  failure.after = after;
}

static int enter(const char *name, int needs_context) {
  if (failure.code && strcmp(failure.name, name) == 0 && failure.after-- == 0) {
    int code = failure.code;
    failure.code = 0;
    write_log("%s fails %d\n", name, code);
    return code;
  }
  const char *always = getenv("FAKE_CUDA_FAIL");
  size_t length = strlen(name);
  if (always && strncmp(always, name, length) == 0 && always[length] == ':')
    return atoi(always + length + 1);
  if (needs_context && depth == 0) {
    write_log("%s without a context\n", name);
    return INVALID_CONTEXT;
  }
  return needs_context ? sticky : 0;
}
#define ENTER(name)                                                                                                    \
  do {                                                                                                                 \
    int code = enter(name, 1);                                                                                         \
    if (code)                                                                                                          \
      return code;                                                                                                     \
  } while (0)

static char *bytes_at(Address address, size_t bytes) {
  for (int i = 0; i < memory_count; ++i) {
    Address start = (Address)memory[i].data;
    if (memory[i].data && !memory[i].pinned && address >= start && address + bytes <= start + memory[i].bytes)
      return (char *)address;
  }
  sticky = ILLEGAL_ADDRESS;
  return NULL;
}

static int is_pinned(const void *host, size_t bytes) {
  for (int i = 0; i < memory_count; ++i)
    if (memory[i].pinned && (char *)host >= memory[i].data && (char *)host + bytes <= memory[i].data + memory[i].bytes)
      return 1;
  return 0;
}

/* ---- streams ---- */

static void run_to(Stream *stream, Op *last);

static void run(Op *op) {
  char *target = NULL, *source = NULL;
  uint64_t arguments[3];
  op->done = 1;
  switch (op->kind) {
  case UPLOAD:
    if ((target = bytes_at(op->target, op->bytes)))
      memcpy(target, op->host, op->bytes);
    break;
  case DOWNLOAD:
    if ((source = bytes_at(op->source, op->bytes)))
      memcpy(op->host, source, op->bytes);
    break;
  case COPY:
    if ((target = bytes_at(op->target, op->bytes)) && (source = bytes_at(op->source, op->bytes)))
      memcpy(target, source, op->bytes);
    break;
  case FILL:
    if ((target = bytes_at(op->target, op->bytes)))
      memset(target, op->value, op->bytes);
    break;
  case RECORD:
    op->event->time = clock_ms;
    return;
  case WAIT:
    if (op->awaited && !op->awaited->done)
      run_to(op->awaited->stream, op->awaited);
    return;
  case LAUNCH:
    clock_ms += 0.25;
    if (launcher) {
      if (!sticky && launcher(op->function->name, op->function->ptx, op->grid, op->block, op->shared, op->cluster,
                               op->parameters))
        sticky = LAUNCH_FAILED;
      return;
    }
    if (strncmp(op->function->name, "copy", 4) != 0)
      return;
    memcpy(arguments, op->parameters, sizeof(arguments));
    if ((source = bytes_at(arguments[0], arguments[2])) && (target = bytes_at(arguments[1], arguments[2])))
      memmove(target, source, arguments[2]);
    return;
  }
  clock_ms += 0.125;
}

static void run_to(Stream *stream, Op *last) {
  while (stream->head && !(last && last->done)) {
    Op *op = stream->head;
    stream->head = op->next;
    if (!stream->head)
      stream->tail = NULL;
    run(op);
  }
}

static void enqueue(Stream *stream, const Op *op, Op **made) {
  Op *copy = malloc(sizeof(Op)); /* kept: events point to it */
  *copy = *op;
  copy->stream = stream;
  copy->next = NULL;
  if (stream->tail)
    stream->tail->next = copy;
  else
    stream->head = copy;
  stream->tail = copy;
  if (made)
    *made = copy;
}

/* To the stream, or to the graph that it captures. */
static void issue(Stream *stream, const Op *op) {
  if (!stream->capture) {
    enqueue(stream, op, NULL);
    return;
  }
  Op *copy = malloc(sizeof(Op));
  *copy = *op;
  stream->capture->ops[stream->capture->count++] = copy;
  stream->unjoined = stream != stream->capture->origin;
}

int cuStreamCreate(Stream **stream, unsigned flags) {
  ENTER("cuStreamCreate");
  (void)flags;
  *stream = streams[stream_count] = calloc(1, sizeof(Stream));
  (*stream)->index = stream_count++;
  ++live_objects;
  return 0;
}
int cuStreamDestroy_v2(Stream *stream) {
  ENTER("cuStreamDestroy_v2");
  run_to(stream, NULL);
  --live_objects;
  return 0;
}
int cuStreamSynchronize(Stream *stream) {
  ENTER("cuStreamSynchronize");
  if (stream->capture)
    return CAPTURE_UNSUPPORTED;
  run_to(stream, NULL);
  return sticky;
}
int cuStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
  ENTER("cuStreamWaitEvent");
  (void)flags;
  if (event->capture) {
    if (!stream->capture) { /* a branch of the graph */
      stream->capture = event->capture;
      stream->unjoined = 1;
      write_log("fork s%d from s%d\n", stream->index, event->captured->index);
    } else {
      event->captured->unjoined = 0;
      write_log("join s%d to s%d\n", event->captured->index, stream->index);
    }
    return 0;
  }
  Op op = {.kind = WAIT, .event = event, .awaited = event->last};
  issue(stream, &op);
  return 0;
}

/* ---- events ---- */

int cuEventCreate(Event **event, unsigned flags) {
  ENTER("cuEventCreate");
  (void)flags;
  *event = calloc(1, sizeof(Event));
  ++live_objects;
  return 0;
}
int cuEventDestroy_v2(Event *event) {
  ENTER("cuEventDestroy_v2");
  (void)event; /* operations may point to it */
  --live_objects;
  return 0;
}
int cuEventRecord(Event *event, Stream *stream) {
  ENTER("cuEventRecord");
  event->capture = stream->capture;
  event->captured = stream;
  if (stream->capture)
    return 0;
  Op op = {.kind = RECORD, .event = event};
  enqueue(stream, &op, &event->last);
  return 0;
}
int cuEventSynchronize(Event *event) {
  ENTER("cuEventSynchronize");
  if (event->last && !event->last->done)
    run_to(event->last->stream, event->last);
  return sticky;
}
int cuEventQuery(Event *event) { /* not ready the first time */
  ENTER("cuEventQuery");
  if (!event->last || event->last->done)
    return 0;
  run_to(event->last->stream, event->last);
  return NOT_READY;
}
int cuEventElapsedTime(float *milliseconds, Event *from, Event *to) {
  ENTER("cuEventElapsedTime");
  if (!from->last || !to->last || !from->last->done || !to->last->done)
    return NOT_READY;
  *milliseconds = (float)(to->time - from->time);
  return 0;
}

/* ---- the driver, devices and contexts ---- */

int cuInit(unsigned flags) {
  (void)flags;
  int code = enter("cuInit", 0);
  return code ? code : number("FAKE_CUDA_DEVICES", 1) ? 0 : NO_DEVICE;
}
int cuDriverGetVersion(int *version) {
  *version = number("FAKE_CUDA_VERSION", 12040);
  return 0;
}
int cuGetErrorName(int code, const char **name) {
  *name = code == OUT_OF_MEMORY       ? "CUDA_ERROR_OUT_OF_MEMORY"
          : code == INVALID_PTX       ? "CUDA_ERROR_INVALID_PTX"
          : code == ILLEGAL_ADDRESS   ? "CUDA_ERROR_ILLEGAL_ADDRESS"
          : code == CAPTURE_UNJOINED  ? "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"
          : code == LAUNCH_FAILED     ? "CUDA_ERROR_LAUNCH_FAILED"
          : code == 701               ? "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"
          : code == 802               ? "CUDA_ERROR_SYSTEM_NOT_READY"
                                      : NULL;
  return *name ? 0 : INVALID_VALUE;
}
int cuGetErrorString(int code, const char **text) {
  *text = code == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : NULL;
  return *text ? 0 : INVALID_VALUE;
}
int cuDeviceGetCount(int *count) {
  *count = number("FAKE_CUDA_DEVICES", 1);
  return enter("cuDeviceGetCount", 0);
}
int cuDeviceGet(int *device, int index) {
  *device = index;
  return enter("cuDeviceGet", 0);
}
int cuDeviceGetName(char *name, int size, int device) {
  snprintf(name, size, "Fake GPU %d", device);
  return enter("cuDeviceGetName", 0);
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  long capability = number("FAKE_CUDA_CAPABILITY", 90);
  switch (attribute) {
  case 13: *value = 1980000; return 0;  /* clock */
  case 16: *value = number("FAKE_CUDA_MULTIPROCESSORS", 132); return 0;
  case 38: *value = 50 << 20; return 0; /* L2 */
  case 75: *value = capability / 10; return 0;
  case 76: *value = capability % 10; return 0;
  case 97: *value = 227 << 10; return 0; /* shared memory of a block */
  }
  return INVALID_VALUE;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  (void)device;
  *bytes = number("FAKE_CUDA_MEMORY", 1 << 30);
  return 0;
}
int cuDevicePrimaryCtxRetain(int **context, int device) {
  *context = &contexts[device];
  ++contexts[device];
  write_log("retain %d\n", device);
  return enter("cuDevicePrimaryCtxRetain", 0);
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  --contexts[device];
  write_log("release %d\n", device);
  return 0;
}
int cuCtxGetCurrent(int **context) {
  *context = depth ? current[depth - 1] : NULL;
  return 0;
}
int cuCtxPushCurrent_v2(int *context) {
  current[depth++] = context;
  return 0;
}
int cuCtxPopCurrent_v2(int **context) {
  *context = current[--depth];
  return 0;
}

/* ---- memory ---- */

static void *allocate(size_t bytes, int pinned) {
  if (memory_count == 4096)
    return NULL;
  char *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  memset(data, 0xAB, bytes < (1 << 20) ? bytes : 1 << 20);
  memory[memory_count].data = data;
  memory[memory_count].bytes = bytes;
  memory[memory_count++].pinned = pinned;
  return data;
}
static size_t forget(void *data) { /* its addresses are not used again: operations that come too late must show */
  for (int i = 0; i < memory_count; ++i)
    if (memory[i].data == data) {
      madvise(data, memory[i].bytes, MADV_DONTNEED);
      memory[i].data = NULL;
      memory[i].pinned = 0;
      return memory[i].bytes;
    }
  abort();
}
int cuMemGetInfo_v2(size_t *available, size_t *total) {
  ENTER("cuMemGetInfo_v2");
  *total = number("FAKE_CUDA_MEMORY", 1 << 30);
  *available = *total - memory_used;
  return 0;
}
int cuMemAlloc_v2(Address *address, size_t bytes) {
  ENTER("cuMemAlloc_v2");
  if (memory_used + bytes > (size_t)number("FAKE_CUDA_MEMORY", 1 << 30)) {
    write_log("alloc %zu refused\n", bytes);
    return OUT_OF_MEMORY;
  }
  memory_used += bytes;
  *address = (Address)allocate(bytes, 0);
  write_log("alloc %zu\n", bytes);
  return 0;
}
int cuMemFree_v2(Address address) {
  ENTER("cuMemFree_v2");
  size_t bytes = forget((void *)address);
  memory_used -= bytes;
  write_log("free %zu\n", bytes);
  return 0;
}
int cuMemHostAlloc(void **data, size_t bytes, unsigned flags) {
  ENTER("cuMemHostAlloc");
  (void)flags;
  *data = allocate(bytes, 1);
  ++live_objects;
  return 0;
}
int cuMemFreeHost(void *data) {
  ENTER("cuMemFreeHost");
  forget(data);
  --live_objects;
  return 0;
}
int cuMemcpyHtoDAsync_v2(Address target, const void *source, size_t bytes, Stream *stream) {
  ENTER("cuMemcpyHtoDAsync_v2");
  write_log("upload %zu s%d%s\n", bytes, stream->index, is_pinned(source, bytes) ? "" : " pageable");
  Op op = {.kind = UPLOAD, .target = target, .host = (void *)source, .bytes = bytes};
  issue(stream, &op);
  return 0;
}
int cuMemcpyDtoHAsync_v2(void *target, Address source, size_t bytes, Stream *stream) {
  ENTER("cuMemcpyDtoHAsync_v2");
  write_log("download %zu s%d%s\n", bytes, stream->index, is_pinned(target, bytes) ? "" : " pageable");
  Op op = {.kind = DOWNLOAD, .source = source, .host = target, .bytes = bytes};
  issue(stream, &op);
  return 0;
}
int cuMemcpyDtoDAsync_v2(Address target, Address source, size_t bytes, Stream *stream) {
  ENTER("cuMemcpyDtoDAsync_v2");
  write_log("copy %zu s%d\n", bytes, stream->index);
  Op op = {.kind = COPY, .target = target, .source = source, .bytes = bytes};
  issue(stream, &op);
  return 0;
}
int cuMemsetD8Async(Address target, unsigned char value, size_t bytes, Stream *stream) {
  ENTER("cuMemsetD8Async");
  write_log("fill %zu with %d s%d\n", bytes, value, stream->index);
  Op op = {.kind = FILL, .target = target, .value = value, .bytes = bytes};
  issue(stream, &op);
  return 0;
}

/* ---- code: a cubin is "\x7f" "ELF" and the PTX ---- */

static int compile(const char *ptx, int options_count, int *options, void **values) {
  char *error = NULL;
  size_t room = 0;
  for (int i = 0; i < options_count; ++i) {
    if (options[i] == 5)
      error = values[i];
    if (options[i] == 6)
      room = (size_t)values[i];
  }
  if (!strstr(ptx, "SYNTAX"))
    return 0;
  if (error)
    snprintf(error, room, "ptxas application ptx input, line 9; error: Parsing error near 'SYNTAX'");
  return INVALID_PTX;
}
int cuModuleLoadDataEx(char **module, const void *image, unsigned count, int *options, void **values) {
  ENTER("cuModuleLoadDataEx");
  const char *text = image;
  int binary = memcmp(text, "\x7f" "ELF", 4) == 0;
  int code = compile(text + (binary ? 4 : 0), count, options, values);
  write_log("load %s%s\n", binary ? "cubin" : "ptx", code ? " refused" : "");
  if (code)
    return code;
  *module = strdup(text + (binary ? 4 : 0));
  ++live_objects;
  return 0;
}
int cuModuleUnload(char *module) {
  ENTER("cuModuleUnload");
  write_log("unload\n");
  memset(module, 0, strlen(module));
  --live_objects;
  return 0;
}
int cuModuleGetFunction(Function **function, char *module, const char *name) {
  ENTER("cuModuleGetFunction");
  char wanted[160];
  snprintf(wanted, sizeof(wanted), ".entry %s(", name);
  const char *at = strstr(module, wanted);
  write_log("function %s%s\n", name, at ? "" : " missing");
  if (!at)
    return NOT_FOUND;
  Function *made = calloc(1, sizeof(Function));
  snprintf(made->name, sizeof(made->name), "%s", name);
  made->ptx = module;
  const char *end = strchr(at, ')');
  while ((at = strstr(at, ".param")) && at < end) {
    const char *next = strpbrk(at, ",)"), *bracket = strchr(at, '[');
    made->sizes[made->count++] = bracket && bracket < next          ? strtoul(bracket + 1, NULL, 10)
                                 : strstr(at, ".u32") && strstr(at, ".u32") < next ? 4
                                                                                   : 8;
    at = next;
  }
  *function = made;
  return 0;
}
int cuFuncSetAttribute(Function *function, int attribute, int value) {
  ENTER("cuFuncSetAttribute");
  write_log("attribute %d of %s = %d\n", attribute, function->name, value);
  if (attribute == 8)
    function->shared = value;
  return 0;
}
int cuFuncGetParamInfo(Function *function, size_t index, size_t *offset, size_t *size) {
  ENTER("cuFuncGetParamInfo");
  if (index >= (size_t)function->count)
    return INVALID_VALUE;
  *offset = 0;
  *size = function->sizes[index];
  return 0;
}
int cuLinkCreate_v2(unsigned count, int *options, void **values, char **state) {
  ENTER("cuLinkCreate_v2");
  long target = 0;
  for (unsigned i = 0; i < count; ++i)
    if (options[i] == 9)
      target = (long)values[i];
  pthread_mutex_lock(&linking);
  write_log("link target=%#lx\n", target);
  *state = calloc(1, 1 << 20);
  ++live_objects;
  if (++links > most_links)
    most_links = links;
  pthread_mutex_unlock(&linking);
  return 0;
}
int cuLinkAddData_v2(char *state, int type, void *data, size_t size, const char *name, unsigned count, int *options,
                     void **values) {
  ENTER("cuLinkAddData_v2");
  (void)name, (void)count, (void)options, (void)values;
  if (type != 1 || ((char *)data)[size - 1])
    return INVALID_VALUE;
  memcpy(state, "\x7f" "ELF", 4);
  memcpy(state + 4, data, size);
  return compile(data, 0, NULL, NULL);
}
int cuLinkComplete(char *state, void **cubin, size_t *size) {
  ENTER("cuLinkComplete");
  usleep(1000 * number("FAKE_CUDA_LINK_MS", 0));
  *cubin = state;
  *size = strlen(state) + 1;
  return 0;
}
int cuLinkDestroy(char *state) {
  pthread_mutex_lock(&linking);
  free(state);
  --live_objects;
  --links;
  pthread_mutex_unlock(&linking);
  return 0;
}

/* ---- launches and graphs ---- */

typedef struct {
  int id, padding;
  unsigned dims[16];
} Attribute;
typedef struct {
  unsigned grid[3], block[3], shared;
  Stream *stream;
  Attribute *attributes;
  unsigned count;
} Config;

static int launch(Function *function, const Config *config, void **parameters) {
  if (config->shared > (48 << 10) && (int)config->shared > function->shared)
    return INVALID_VALUE;
  Op op = {.kind = LAUNCH, .function = function, .grid = config->grid[0], .block = config->block[0], .shared = config->shared};
  size_t size = 0;
  for (int i = 0; i < function->count; size += function->sizes[i++])
    memcpy(op.parameters + size, parameters[i], function->sizes[i]);
  unsigned cluster = config->count ? config->attributes[0].dims[0] : 0;
  if (config->count && (config->attributes[0].id != 4 || config->grid[0] % cluster))
    return INVALID_VALUE;
  op.cluster = cluster ? cluster : 1;
  write_log("launch %s grid=%u,%u,%u block=%u,%u,%u shared=%u cluster=%u s%d%s parameters=", function->name,
            config->grid[0], config->grid[1], config->grid[2], config->block[0], config->block[1], config->block[2],
            config->shared, cluster, config->stream->index, config->stream->capture ? " captured" : "");
  for (size_t i = 0; i < size; ++i)
    write_log("%02x", op.parameters[i]);
  write_log("\n");
  issue(config->stream, &op);
  return 0;
}
int cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, Stream *stream, void **parameters, void **extra) {
  ENTER("cuLaunchKernel");
  (void)extra;
  Config config = {{gx, gy, gz}, {bx, by, bz}, shared, stream, NULL, 0};
  return launch(function, &config, parameters);
}
int cuLaunchKernelEx(const Config *config, Function *function, void **parameters, void **extra) {
  ENTER("cuLaunchKernelEx");
  (void)extra;
  return launch(function, config, parameters);
}

/* The map's bytes tell what it was made of. */
int cuTensorMapEncodeTiled(void *map, int type, uint32_t rank, void *address, const uint64_t *sizes,
                           const uint64_t *strides, const uint32_t *box, const uint32_t *steps, int interleave,
                           int swizzle, int promotion, int fill) {
  int code = enter("cuTensorMapEncodeTiled", 0);
  if (code)
    return code;
  if ((uintptr_t)map % 64 || (uintptr_t)address % 16)
    return INVALID_VALUE;
  for (uint32_t i = 0; i < rank; ++i)
    if (!box[i] || box[i] > 256 || steps[i] != 1 || (i + 1 < rank && strides[i] % 16))
      return INVALID_VALUE;
  memset(map, 0, 128);
  uint32_t *words = map;
  words[0] = type, words[1] = rank, words[2] = interleave, words[3] = swizzle, words[4] = promotion, words[5] = fill;
  memcpy(words + 6, &address, 8);
  for (uint32_t i = 0; i < rank; ++i) {
    words[8 + i] = (uint32_t)sizes[i];
    words[13 + i] = i + 1 < rank ? (uint32_t)strides[i] : 0;
    words[18 + i] = box[i];
  }
  write_log("map rank=%u\n", rank);
  return 0;
}

int cuStreamBeginCapture_v2(Stream *stream, unsigned mode) {
  ENTER("cuStreamBeginCapture_v2");
  write_log("capture mode=%u\n", mode);
  stream->capture = calloc(1, sizeof(Graph));
  stream->capture->origin = stream;
  ++live_objects;
  return 0;
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
  ENTER("cuStreamEndCapture");
  Graph *captured = stream->capture;
  int unjoined = 0;
  for (int i = 0; i < stream_count; ++i)
    if (streams[i]->capture == captured) {
      unjoined |= streams[i] != stream && streams[i]->unjoined;
      streams[i]->capture = NULL;
    }
  *graph = unjoined ? NULL : captured;
  live_objects -= unjoined;
  return unjoined ? CAPTURE_UNJOINED : 0;
}
int cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long flags) {
  ENTER("cuGraphInstantiateWithFlags");
  (void)flags;
  write_log("instantiate %d\n", graph->count);
  *executable = malloc(sizeof(Graph));
  **executable = *graph;
  ++live_objects;
  return 0;
}
int cuGraphExecUpdate_v2(Graph *executable, Graph *graph, void *info) {
  ENTER("cuGraphExecUpdate_v2");
  (void)info;
  int same = executable->count == graph->count;
  for (int i = 0; same && i < graph->count; ++i)
    same = executable->ops[i]->kind == graph->ops[i]->kind && executable->ops[i]->function == graph->ops[i]->function;
  write_log("update %d%s\n", graph->count, same ? "" : " refused");
  if (!same)
    return UPDATE_FAILURE;
  *executable = *graph;
  return 0;
}
int cuGraphLaunch(Graph *executable, Stream *stream) {
  ENTER("cuGraphLaunch");
  write_log("graph of %d\n", executable->count);
  for (int i = 0; i < executable->count; ++i)
    enqueue(stream, executable->ops[i], NULL);
  return 0;
}
int cuGraphExecDestroy(Graph *executable) {
  free(executable);
  --live_objects;
  return 0;
}
int cuGraphDestroy(Graph *graph) {
  free(graph);
  --live_objects;
  return 0;
}
