//===- ThreadPool.cpp - Contexts and launches -----------------------------===//
//
// A launch is one store that all workers poll and one counter that they count
// down. Workers poll for a while after their last launch, then sleep in a
// futex; one that would wake on its caller's CPU is sent to another. Workers
// beyond the number of parts of a launch never touch its job, so a launch of
// few workgroups waits only for those that run one.
//
//===----------------------------------------------------------------------===//

#include "runtime/Affinity.h"
#include "runtime/Context.h"
#include "runtime/CudaDevice.h"

#include <linux/futex.h>
#include <new>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace dsc_rt;

namespace {

constexpr int32_t kMaxThreads = 1024;
constexpr uint32_t kRestarting = ~0u;
// How long to poll before sleeping: about the host's work between two forward
// passes, so that the next launch finds its workers awake.
constexpr int64_t kSpinNanoseconds = 200 * 1000;
constexpr int kPausesPerCheck = 256;
// Launches between two attempts of a worker to leave its caller's CPU.
constexpr int32_t kMovePatience = 1000;
// Wakes of a worker off its caller's CPU after it was found there.
constexpr int32_t kSteeredWakes = 100;

/// Number of fork() calls between this process and the one that loaded us.
std::atomic<uint32_t> forks{0};
pthread_once_t forkHandlerOnce = PTHREAD_ONCE_INIT;

void countFork() { forks.fetch_add(1, std::memory_order_relaxed); }
void installForkHandler() { pthread_atfork(nullptr, nullptr, countFork); }

void pauseThread() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void futexWait(std::atomic<uint32_t> *word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futexWake(std::atomic<uint32_t> *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0); }

/// Polls `done` for kSpinNanoseconds; the time is read rarely, and the
/// processor is offered to others meanwhile in case they need this core.
template <typename Done> bool spin(Done done) {
  int64_t start = 0;
  for (;;) {
    for (int i = 0; i < kPausesPerCheck; ++i) {
      if (done())
        return true;
      pauseThread();
    }
    int64_t now = nanosecondsNow();
    if (start == 0)
      start = now;
    else if (now - start > kSpinNanoseconds)
      return false;
    sched_yield();
  }
}

/// Sets the default floating-point mode for its lifetime: the bits of a result
/// must not depend on whether the caller or a worker computed them, and hosts
/// do set flush-to-zero (torch.set_flush_denormal).
class DefaultFloatMode {
public:
#if defined(__x86_64__)
  DefaultFloatMode() : saved(_mm_getcsr()) {
    if (differs())
      _mm_setcsr(kDefault);
  }
  ~DefaultFloatMode() {
    if (differs())
      _mm_setcsr(saved);
  }

private:
  static constexpr unsigned kDefault = 0x1f80; // all exceptions masked
  static constexpr unsigned kStickyFlags = 0x3f;
  bool differs() const { return (saved & ~kStickyFlags) != kDefault; }
  unsigned saved;
#elif defined(__aarch64__)
  DefaultFloatMode() {
    asm volatile("mrs %0, fpcr" : "=r"(saved));
    if (saved)
      asm volatile("msr fpcr, %0" ::"r"(uint64_t(0)));
  }
  ~DefaultFloatMode() {
    if (saved)
      asm volatile("msr fpcr, %0" ::"r"(saved));
  }

private:
  uint64_t saved;
#endif
};

void record(dsc_rt_context *context, int64_t begin, int32_t dispatch, int32_t part) {
  int64_t index = context->spanCount.fetch_add(1, std::memory_order_relaxed);
  if (index < context->spanCapacity)
    context->spans[index] = {begin, nanosecondsNow(), dispatch, part};
}

/// Every grid is cut into `parts` ranges; those that are one longer go to the
/// parts that got none of the grids before.
void runPart(dsc_rt_context *context, const Job &job, int64_t part, int64_t parts) {
  int64_t start = job.dispatch < 0 ? 0 : nanosecondsNow();
  int64_t first = 0;
  for (int32_t i = 0; i < job.count; ++i) {
    const Grid &grid = job.grids[i];
    int64_t length = grid.workgroups / parts, longer = grid.workgroups % parts;
    int64_t place = part >= first ? part - first : part - first + parts;
    int64_t begin = place * length + (place < longer ? place : longer);
    int64_t end = begin + length + (place < longer ? 1 : 0);
    if (begin < end)
      grid.kernel(grid.buffers, grid.dims, begin, end);
    first = (first + longer) % parts;
  }
  if (job.dispatch >= 0)
    record(context, start, job.dispatch, static_cast<int32_t>(part));
}

/// Waits until the state differs from `seen` and returns it.
uint64_t waitForLaunch(dsc_rt_context *context, Worker *worker, uint64_t seen) {
  uint64_t state = seen;
  auto changed = [&] {
    state = context->state.load(std::memory_order_acquire);
    return state != seen;
  };
  if (spin(changed))
    return state;
  // The caller stores the state, then reads `sleepers`; we count ourselves,
  // then read the state. In the one order of sequential consistency at least
  // one of the two sees the other, so no wake-up is lost.
  worker->cpu.store(sched_getcpu());
  worker->parked.store(1);
  context->sleepers.fetch_add(1);
  while ((state = context->state.load()) == seen)
    if (worker->parked.load() == 1)
      futexWait(&worker->parked, 1);
    else
      worker->parked.store(1);
  context->sleepers.fetch_sub(1);
  worker->parked.store(0);
  return state;
}

/// Leaves the caller's CPU if that is where this worker runs; rarely, so that a
/// system which puts it back does not make launches slow. Being woken there, it is steered for a while.
void avoidCaller(dsc_rt_context *context, Worker *worker) {
  int32_t barred = worker->barred.load();
  if (barred >= 0) {
    allowCpu(barred);
    worker->barred.store(-1);
  }
  if (!context->cpuEach || context->job.callerCpu < 0 || sched_getcpu() != context->job.callerCpu)
    return;
  worker->steered.store(kSteeredWakes);
  if (--worker->patience > 0)
    return;
  if (barCpu(pthread_self(), context->job.callerCpu))
    allowCpu(context->job.callerCpu);
  worker->patience = kMovePatience;
}

/// Wakes a worker that sleeps. If no CPU is idle, be it that another library's threads poll there, schedulers put it
/// where it ran last or beside the caller: it and the caller, on `cpu`, would take turns for many launches. So it is
/// kept off that CPU if it fell asleep there, or met the caller lately. -1: it may run anywhere.
void wake(Worker *worker, int32_t cpu) {
  if (worker->parked.load() != 1)
    return;
  int32_t steered = worker->steered.load();
  if (steered > 0)
    worker->steered.store(steered - 1);
  bool meets = steered > 0 || worker->cpu.load() == cpu;
  if (cpu >= 0 && meets && worker->barred.load() < 0 && barCpu(worker->thread, cpu))
    worker->barred.store(cpu);
  if (worker->parked.exchange(0) == 1)
    futexWake(&worker->parked);
}

void *workerMain(void *argument) {
  auto *worker = static_cast<Worker *>(argument);
  dsc_rt_context *context = worker->context;
  DefaultFloatMode mode; // threads inherit their creator's
  uint64_t seen = 0;
  for (;;) {
    seen = waitForLaunch(context, worker, seen);
    int64_t parts = seen & 0xffff;
    if (parts == 0)
      return nullptr;
    if (worker->index >= parts)
      continue;
    avoidCaller(context, worker);
    runPart(context, context->job, worker->index, parts);
    if (context->pending.fetch_sub(1) == 1 && context->callerParked.load())
      futexWake(&context->pending);
  }
}

/// Publishes a launch of `parts` parts (0: the end) and wakes those asleep.
void publish(dsc_rt_context *context, int64_t parts, int32_t recipients) {
  uint64_t launch = (context->state.load(std::memory_order_relaxed) >> 16) + 1;
  context->state.store(launch << 16 | static_cast<uint64_t>(parts));
  if (context->sleepers.load() == 0)
    return;
  // At the end a worker may be gone before its CPUs are looked at.
  int32_t cpu = parts > 0 && context->cpuEach ? context->job.callerCpu : -1;
  for (int32_t i = 0; i < recipients; ++i)
    wake(&context->workers[i], cpu);
}

/// Starts the workers of a context that has none; fewer if threads run out.
void startWorkers(dsc_rt_context *context) {
  context->state.store(0);
  context->sleepers.store(0);
  context->pending.store(0);
  context->callerParked.store(0);
  context->cpuEach = context->requested <= availableCpus();
  // Signals belong to the host's own threads (Python handles Ctrl-C there).
  sigset_t all, previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  int32_t started = 0;
  while (started < context->requested - 1) {
    Worker *worker = &context->workers[started];
    worker->parked.store(0);
    worker->index = started + 1;
    worker->patience = 0;
    worker->cpu.store(-1);
    worker->steered.store(0);
    worker->barred.store(-1);
    worker->context = context;
    if (pthread_create(&worker->thread, nullptr, workerMain, worker) != 0)
      break;
    ++started;
  }
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  context->threads.store(started + 1);
}

/// In a child of fork() the workers are gone. Returns true once the context
/// has new ones, false while another thread is making them.
bool haveWorkers(dsc_rt_context *context) {
  uint32_t current = forks.load(std::memory_order_relaxed);
  uint32_t owner = context->generation.load(std::memory_order_acquire);
  if (owner == current)
    return true;
  if (owner == kRestarting || !context->generation.compare_exchange_strong(owner, kRestarting))
    return false;
  startWorkers(context);
  context->busy.store(false);
  context->generation.store(current);
  return true;
}

void launchOnPool(dsc_rt_context *context, const Grid *grids, int32_t count, int32_t dispatch = -1) {
  Job job{grids, count, -1, dispatch};
  int64_t workgroups = 0;
  for (int32_t i = 0; i < count; ++i)
    workgroups += grids[i].workgroups;
  if (workgroups == 1 || context->requested == 1 || !haveWorkers(context) ||
      context->busy.exchange(true, std::memory_order_acquire)) {
    runPart(context, job, 0, 1);
    return;
  }
  int64_t parts = context->threads.load(std::memory_order_relaxed);
  if (workgroups < parts)
    parts = workgroups;
  context->job = job;
  context->job.callerCpu = sched_getcpu();
  context->pending.store(static_cast<uint32_t>(parts - 1), std::memory_order_relaxed);
  publish(context, parts, static_cast<int32_t>(parts - 1));
  runPart(context, job, 0, parts);
  auto done = [&] { return context->pending.load(std::memory_order_acquire) == 0; };
  if (!spin(done)) {
    context->callerParked.store(1);
    while (uint32_t left = context->pending.load())
      futexWait(&context->pending, left);
    context->callerParked.store(0, std::memory_order_relaxed);
  }
  context->busy.store(false, std::memory_order_release);
}

void giveBackPages(const ReadOnce &files) {
  for (int32_t i = 0; i < files.count; ++i)
    madvise(files.starts[i], files.sizes[i], MADV_DONTNEED); // refusal leaves them where they are
}

void countLaunch(ReadOnce &files) {
  if (files.count > 0 && ++files.launches % ReadOnce::kLaunches == 0)
    giveBackPages(files);
}

} // namespace

int dsc_rt_version(void) { return DSC_RT_VERSION; }

dsc_rt_context *dsc_rt_create(int threads) {
  if (threads < 0)
    return nullptr;
  if (threads == 0)
    threads = availableCpus();
  if (threads > kMaxThreads)
    threads = kMaxThreads;
  pthread_once(&forkHandlerOnce, installForkHandler);

  void *memory = nullptr, *workers = nullptr;
  if (posix_memalign(&memory, alignof(dsc_rt_context), sizeof(dsc_rt_context)))
    return nullptr;
  if (posix_memalign(&workers, alignof(Worker), threads * sizeof(Worker))) {
    free(memory);
    return nullptr;
  }
  auto *context = new (memory) dsc_rt_context{};
  context->workers = static_cast<Worker *>(workers);
  for (int i = 0; i < threads; ++i)
    new (&context->workers[i]) Worker{};
  context->requested = threads;
  context->generation.store(forks.load());
  startWorkers(context);
  return context;
}

void dsc_rt_destroy(dsc_rt_context *context) {
  if (!context)
    return;
  if (context->gpu) {
    gpuDestroy(context->gpu);
    free(context);
    return;
  }
  if (context->generation.load() == forks.load()) {
    int32_t workers = context->threads.load() - 1;
    publish(context, 0, workers);
    for (int32_t i = 0; i < workers; ++i)
      pthread_join(context->workers[i].thread, nullptr);
  }
  context->arena.release();
  free(context->workers);
  free(context);
}

int dsc_rt_threads(dsc_rt_context *context) {
  return context->gpu ? context->gpu->info.multiprocessors : context->threads.load();
}

void dsc_rt_launch(dsc_rt_context *context, dsc_rt_kernel kernel, void *const *buffers, const int64_t *dims,
                   int64_t workgroups, int32_t dispatch) {
  if (context->gpu)
    return gpuLaunch(context->gpu, reinterpret_cast<const void *>(kernel), buffers, dims, workgroups, dispatch);
  Grid grid{kernel, buffers, dims, workgroups};
  Deferred &deferred = context->deferred;
  if (deferred.count > 0) {
    // A nested launch must find none waiting. The grids stay: only this thread defers.
    int32_t count = deferred.count;
    deferred.count = deferred.bufferCount = 0;
    if (workgroups > 0)
      deferred.grids[count++] = grid;
    DefaultFloatMode mode;
    launchOnPool(context, deferred.grids, count);
    countLaunch(context->readOnce);
    return;
  }
  if (workgroups <= 0)
    return;
  DefaultFloatMode mode;
  if (!context->spans || dispatch < 0) {
    launchOnPool(context, &grid, 1);
    countLaunch(context->readOnce);
    return;
  }
  int64_t start = nanosecondsNow();
  launchOnPool(context, &grid, 1, dispatch);
  record(context, start, dispatch, -1);
}

void dsc_rt_defer(dsc_rt_context *context, dsc_rt_kernel kernel, void *const *buffers, int32_t bufferCount,
                  const int64_t *dims, int64_t workgroups, int32_t dispatch) {
  if (workgroups <= 0)
    return;
  if (context->gpu)
    return gpuDefer(context->gpu, reinterpret_cast<const void *>(kernel), buffers, dims, workgroups, dispatch);
  Deferred &deferred = context->deferred;
  if (context->spans || deferred.count == Deferred::kGrids || deferred.bufferCount + bufferCount > Deferred::kBuffers) {
    int32_t count = deferred.count;
    deferred.count = 0; // these go on waiting
    dsc_rt_launch(context, kernel, buffers, dims, workgroups, dispatch);
    deferred.count = count;
    return;
  }
  void **copy = deferred.buffers + deferred.bufferCount;
  for (int32_t i = 0; i < bufferCount; ++i)
    copy[i] = buffers[i];
  deferred.bufferCount += bufferCount;
  deferred.grids[deferred.count++] = {kernel, copy, dims, workgroups};
}

int64_t dsc_rt_profile(dsc_rt_context *context, dsc_rt_span *spans, int64_t capacity) {
  if (context->gpu)
    return gpuProfile(context->gpu, spans, capacity);
  int64_t written = context->spanCount.exchange(0);
  if (written > context->spanCapacity)
    written = context->spanCapacity;
  context->spanCapacity = spans && capacity > 0 ? capacity : 0;
  context->spans = context->spanCapacity > 0 ? spans : nullptr;
  return written;
}

void dsc_rt_read_once(dsc_rt_context *context, void *const *starts, const size_t *sizes, int32_t count) {
  if (context->gpu)
    return;
  giveBackPages(context->readOnce);
  context->readOnce = {starts, sizes, count > 0 ? count : 0, 0};
}
