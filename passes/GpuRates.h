//===- GpuRates.h - what GPUs compute and read per second -----------------===//
#pragma once
#include "dialects/dsc/DscOps.h"

namespace mlir::dsc {

/// Rates of the data sheet, dense: NVIDIA A100 Tensor Core GPU (80 GB SXM) and H100 Tensor Core GPU (SXM5).
struct GpuRates {
  int64_t multiprocessors;
  double matrixPerNs; // operations on bf16 and f16; on 8 bits twice as many
  double floatPerNs;  // operations on f32
  double bytesPerNs;  // of memory
};

inline GpuRates ratesOf(TargetAttr target) {
  if (target.getCpu() == "sm_90a")
    return {132, 989400, 66900, 3350};
  return {108, 312000, 19500, 2039};
}

} // namespace mlir::dsc
