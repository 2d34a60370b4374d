//===- Affinity.cpp - on which CPUs threads run ---------------------------===//

#include "runtime/Affinity.h"

#include <sched.h>
#include <unistd.h>

namespace dsc_rt {
namespace {

/// Calls `use(set, bytes)` with the CPUs that `thread` may run on and returns what that says; false if the kernel does
/// not say which they are.
template <typename Use> bool withAffinity(pthread_t thread, Use use) {
  // The kernel refuses a mask smaller than its own, so ask with ever larger
  // ones: cpu_set_t ends at 1024 CPUs.
  for (int cpus = CPU_SETSIZE; cpus <= 64 * CPU_SETSIZE; cpus *= 2) {
    cpu_set_t *set = CPU_ALLOC(cpus);
    if (!set)
      return false;
    size_t bytes = CPU_ALLOC_SIZE(cpus);
    bool known = pthread_getaffinity_np(thread, bytes, set) == 0;
    bool result = known && use(set, bytes);
    CPU_FREE(set);
    if (known)
      return result;
  }
  return false;
}

} // namespace

int availableCpus() {
  int count = 0;
  auto countCpus = [&](cpu_set_t *set, size_t bytes) { return (count = CPU_COUNT_S(bytes, set)) > 0; };
  if (withAffinity(pthread_self(), countCpus))
    return count;
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? static_cast<int>(online) : 1;
}

bool barCpu(pthread_t thread, int cpu) {
  return withAffinity(thread, [&](cpu_set_t *set, size_t bytes) {
    if (!CPU_ISSET_S(cpu, bytes, set) || CPU_COUNT_S(bytes, set) == 1)
      return false;
    CPU_CLR_S(cpu, bytes, set);
    return pthread_setaffinity_np(thread, bytes, set) == 0;
  });
}

void allowCpu(int cpu) {
  withAffinity(pthread_self(), [&](cpu_set_t *set, size_t bytes) {
    CPU_SET_S(cpu, bytes, set);
    return pthread_setaffinity_np(pthread_self(), bytes, set) == 0;
  });
}

} // namespace dsc_rt
