//===- CudaGraph.cpp - Captured graphs, and profiles of launches ----------===//
//
// A graph is recorded by capturing the stream of all work. Device memory that
// is freed meanwhile stays with the graph, and the arena as it was stays as
// long as any graph. A profile is a pair of events around every launch, from
// which spans on the host's clock are made when it ends.
//
//===----------------------------------------------------------------------===//

#include "runtime/Context.h"
#include "runtime/CudaDevice.h"

#include <stdlib.h>

using namespace dsc_rt;

struct dsc_rt_gpu_graph {
  Gpu *gpu;
  CUgraphExec executable;
  int64_t owner; // of the memory that its capture freed
};

namespace {

bool instantiate(Gpu *gpu, CUgraph captured, CUgraphExec *executable) {
  return gpu->ok(gpu->driver->graphInstantiate(executable, captured, 0), "making a graph");
}

/// Replaces what `graph` launches by what was captured.
bool update(dsc_rt_gpu_graph *graph, CUgraph captured) {
  Gpu *gpu = graph->gpu;
  CUgraphExecUpdateResultInfo info = {};
  if (gpu->driver->graphExecUpdate(graph->executable, captured, &info) == CUDA_SUCCESS)
    return true;
  CUgraphExec executable; // of another shape
  if (!instantiate(gpu, captured, &executable))
    return false;
  gpu->driver->graphExecDestroy(graph->executable);
  graph->executable = executable;
  return true;
}

} // namespace

//===----------------------------------------------------------------------===//
// Graphs
//===----------------------------------------------------------------------===//

int dsc_rt_gpu_capture_begin(dsc_rt_context *context) {
  Gpu *gpu = context->gpu;
  if (gpu->error)
    return gpu->error;
  if (gpu->capturing) {
    gpu->fail("a graph is being captured already");
    return gpu->error;
  }
  Current current(gpu);
  // Relaxed: the arena may grow and kernels may be loaded meanwhile.
  if (gpu->ok(gpu->driver->streamBeginCapture(gpu->compute, CU_STREAM_CAPTURE_MODE_RELAXED), "capturing a graph"))
    gpu->capturing = ++gpu->captures;
  return gpu->error;
}

dsc_rt_gpu_graph *dsc_rt_gpu_capture_end(dsc_rt_context *context, dsc_rt_gpu_graph *graph) {
  Gpu *gpu = context->gpu;
  if (!gpu->capturing) {
    gpu->fail("no graph is being captured");
    return nullptr;
  }
  Current current(gpu);
  joinBranches(gpu);
  int64_t owner = gpu->capturing;
  gpu->capturing = 0;
  CUgraph captured = nullptr;
  // Also after an error, so that the stream works again.
  gpu->ok(gpu->driver->streamEndCapture(gpu->compute, &captured), "capturing a graph");
  dsc_rt_gpu_graph *made = nullptr;
  if (!gpu->error && graph) {
    if (update(graph, captured)) {
      made = graph;
      poolRelease(gpu, graph->owner); // who takes it comes behind the launches so far
      graph->owner = owner;
    }
  } else if (!gpu->error) {
    made = static_cast<dsc_rt_gpu_graph *>(calloc(1, sizeof(dsc_rt_gpu_graph)));
    if (!made) {
      gpu->fail("out of host memory");
    } else if (instantiate(gpu, captured, &made->executable)) {
      made->gpu = gpu;
      made->owner = owner;
      ++gpu->graphs;
    } else {
      free(made);
      made = nullptr;
    }
  }
  if (!made) {
    poolRelease(gpu, owner);
    if (gpu->graphs == 0)
      releaseRetired(gpu);
  }
  if (captured)
    gpu->driver->graphDestroy(captured);
  return made;
}

int dsc_rt_gpu_graph_launch(dsc_rt_gpu_graph *graph) {
  Gpu *gpu = graph->gpu;
  if (gpu->error)
    return gpu->error;
  Current current(gpu);
  gpu->ok(gpu->driver->graphLaunch(graph->executable, gpu->compute), "launching a graph");
  return gpu->error;
}

void dsc_rt_gpu_graph_destroy(dsc_rt_gpu_graph *graph) {
  if (!graph)
    return;
  Gpu *gpu = graph->gpu;
  if (!forkedFromDriver()) {
    Current current(gpu);
    gpu->driver->graphExecDestroy(graph->executable); // launches that run end first
    poolRelease(gpu, graph->owner);
    if (--gpu->graphs == 0 && !gpu->capturing)
      releaseRetired(gpu);
  }
  free(graph);
}

//===----------------------------------------------------------------------===//
// Profiles
//===----------------------------------------------------------------------===//

bool dsc_rt::beginSpan(Gpu *gpu, int32_t dispatch) {
  Profile &profile = gpu->profile;
  if (!profile.spans || dispatch < 0 || profile.count == profile.capacity || gpu->capturing)
    return false;
  Profile::Pair &pair = profile.pairs[profile.count];
  if (profile.count == profile.created) {
    if (!gpu->ok(gpu->driver->eventCreate(&pair.begin, CU_EVENT_DEFAULT), "making an event"))
      return false;
    if (!gpu->ok(gpu->driver->eventCreate(&pair.end, CU_EVENT_DEFAULT), "making an event")) {
      gpu->driver->eventDestroy(pair.begin);
      return false;
    }
    ++profile.created;
  }
  pair.dispatch = dispatch;
  return gpu->ok(gpu->driver->eventRecord(pair.begin, gpu->compute), "recording an event");
}

void dsc_rt::endSpan(Gpu *gpu) {
  Profile &profile = gpu->profile;
  if (gpu->ok(gpu->driver->eventRecord(profile.pairs[profile.count].end, gpu->compute), "recording an event"))
    ++profile.count;
}

void dsc_rt::freeProfile(Gpu *gpu) {
  Profile &profile = gpu->profile;
  for (int64_t i = 0; i < profile.created; ++i) {
    gpu->driver->eventDestroy(profile.pairs[i].begin);
    gpu->driver->eventDestroy(profile.pairs[i].end);
  }
  if (profile.start)
    gpu->driver->eventDestroy(profile.start);
  free(profile.pairs);
  profile = {};
}

/// Writes the spans; the number of them.
static int64_t writeSpans(Gpu *gpu) {
  Profile &profile = gpu->profile;
  if (!gpu->ok(gpu->driver->streamSynchronize(gpu->compute), "waiting for the launches of a profile"))
    return 0;
  int64_t written = 0;
  for (int64_t i = 0; i < profile.count; ++i) {
    const Profile::Pair &pair = profile.pairs[i];
    float begin = 0, length = 0; // milliseconds
    if (!gpu->ok(gpu->driver->eventElapsedTime(&begin, profile.start, pair.begin), "the time of a launch") ||
        !gpu->ok(gpu->driver->eventElapsedTime(&length, pair.begin, pair.end), "the time of a launch"))
      break;
    int64_t at = profile.startTime + static_cast<int64_t>(static_cast<double>(begin) * 1e6);
    profile.spans[written++] = {at, at + static_cast<int64_t>(static_cast<double>(length) * 1e6), pair.dispatch, -1};
  }
  return written;
}

int64_t dsc_rt::gpuProfile(Gpu *gpu, dsc_rt_span *spans, int64_t capacity) {
  Current current(gpu);
  int64_t written = gpu->profile.spans && !gpu->error ? writeSpans(gpu) : 0;
  freeProfile(gpu);
  if (!spans || capacity <= 0 || gpu->error)
    return written;
  Profile &profile = gpu->profile;
  profile.pairs = static_cast<Profile::Pair *>(calloc(static_cast<size_t>(capacity), sizeof(Profile::Pair)));
  if (!profile.pairs) {
    gpu->fail("out of host memory");
    return written;
  }
  // The two clocks meet here: the GPU is idle, so the event happens as it is recorded.
  if (gpu->ok(gpu->driver->eventCreate(&profile.start, CU_EVENT_DEFAULT), "making an event") &&
      gpu->ok(gpu->driver->streamSynchronize(gpu->compute), "starting a profile") &&
      gpu->ok(gpu->driver->eventRecord(profile.start, gpu->compute), "starting a profile") &&
      gpu->ok(gpu->driver->eventSynchronize(profile.start), "starting a profile")) {
    profile.startTime = nanosecondsNow();
    profile.spans = spans;
    profile.capacity = capacity;
  }
  return written;
}
