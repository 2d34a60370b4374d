//===- ScaledIntegers.h - floats as integers under scales -----------------===//
#pragma once
#include "passes/codegen/KernelBuilder.h"

namespace mlir::dsc {

/// Whether the target multiplies pairs of 16-bit integers faster than floats: `multiplyGroups` in its widest vectors.
bool multipliesPairs(TargetAttr target);

/// `value` in each of `lanes` lanes.
Value constantVector(KernelBuilder &kernel, Type element, Attribute value, int64_t lanes);

/// The greater of `most` and the magnitude of `value`, f32, as bits: what is not finite is greater than all else.
Value greaterMagnitude(KernelBuilder &kernel, Value most, Value value);
/// What that begins with.
Value noMagnitude(KernelBuilder &kernel, int64_t lanes);
/// The greatest of its lanes.
Value greatestMagnitude(KernelBuilder &kernel, Value most);

/// Scale of integers up to `largest` for floats up to `most`, bits of f32, and what turns the floats into them. Scales
/// of what is not finite are not finite either.
std::pair<Value, Value> scaleOf(KernelBuilder &kernel, Value most, double largest);

/// A vector of floats times `factor`, to the nearest integers; 32 bits each.
Value scaledIntegers(KernelBuilder &kernel, Value value, Value factor);

/// Products of words over 2^15, to the nearest integers (half upwards).
Value roundedProduct(KernelBuilder &kernel, Value a, Value b);

/// Two vectors of integers of 16 bits, 32 bits each, as one of pairs.
Value pairsOf(KernelBuilder &kernel, Value even, Value odd);

} // namespace mlir::dsc
