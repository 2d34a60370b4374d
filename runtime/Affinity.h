//===- Affinity.h - on which CPUs threads run -----------------------------===//
#pragma once
#include <pthread.h>

namespace dsc_rt {

/// Number of CPUs that this thread may run on; at least 1.
int availableCpus();

/// Takes a CPU from those that a thread may run on, which leaves it at once; false if it has no other, or
/// that is not allowed.
bool barCpu(pthread_t thread, int cpu);

/// Lets this thread run on a CPU again.
void allowCpu(int cpu);

} // namespace dsc_rt
