//===- CudaCache.h - Compiled GPU code on disk (internal) -----------------===//

#ifndef DSC_RT_CUDACACHE_H
#define DSC_RT_CUDACACHE_H

#include "runtime/dsc_rt_gpu.h"

namespace dsc_rt {

/// Of one PTX text, one driver and one architecture.
struct CubinKey {
  CubinKey(const void *ptx, size_t size, const dsc_rt_gpu_device &device);
  uint64_t words[2];
};

/// The cubin (malloc'd), or null if there is none that is whole.
void *readCubin(const char *folder, const CubinKey &key, size_t *size);

/// Keeps a cubin; what cannot be written is not kept.
void writeCubin(const char *folder, const CubinKey &key, const void *cubin, size_t size);

} // namespace dsc_rt

#endif // DSC_RT_CUDACACHE_H
