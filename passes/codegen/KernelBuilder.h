//===- KernelBuilder.h - writes one kernel as loops over vectors ----------===//
//
// Kernels are written from the result backwards: the loop nest stands at an
// index, and values are pulled there through the operations that make them.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "passes/DimsAnalysis.h"
#include "passes/codegen/KernelInterfaces.h"

namespace mlir::dsc {

/// One index of a point: the same for all lanes, `base + lane`, or any vector.
struct Index {
  enum Kind { Uniform, Lanes, Vector } kind = Uniform;
  Value value; // index (Uniform, Lanes: of lane 0) or vector<width x index>

  static Index uniform(Value value) { return {Uniform, value}; }
  static Index lanes(Value base) { return {Lanes, base}; }
  static Index vector(Value value) { return {Vector, value}; }
};

/// How the threads of a GPU's block share a workgroup: each team takes rows, its threads share what a row is made of.
/// One thread, and every thread of a CPU, is a team of its own.
struct Team {
  int64_t teams = 1, threads = 1;
  Value team, thread; // index: which one this is, of the block and of the team

  bool shares() const { return static_cast<bool>(thread); }
};

class KernelBuilder : public ImplicitLocOpBuilder {
public:
  KernelBuilder(Location loc, OpBuilder &b, DimsAnalysis &dims, int64_t vectorBytes)
      : ImplicitLocOpBuilder(loc, b), dims(dims), vectorBytes(vectorBytes) {}

  DimsAnalysis &dims;
  int64_t vectorBytes;
  /// Lanes of the vectors now being written; 1 is scalar code.
  int64_t width = 1;
  /// Lanes that count, vector<width x i1>, or null for all.
  Value mask;
  /// Number of the workgroup that runs, of the first that this call runs and of the first that it does not: they run
  /// one after the other, those of a persistent block as many apart as there are blocks.
  Value workgroup, firstWorkgroup, endWorkgroup;
  /// Buffers of tensors that live in memory.
  DenseMap<Value, Value> buffers;
  /// Values of the main operation's results at the current index.
  DenseMap<Value, Value> current;
  /// Set for a kernel of a GPU.
  bool gpu = false;
  Team team;
  /// Memory between two launches, if the kernel has partial results.
  Value partial;
  /// Tensors that the kernel returns, with their buffers.
  SmallVector<std::pair<Value, Value>> outputs;

  // Index arithmetic.
  Value constantIndex(int64_t value);
  Value add(Value lhs, Value rhs);
  Value sub(Value lhs, Value rhs);
  Value mul(Value lhs, Value rhs);
  Value min(Value lhs, Value rhs);
  Value floorDiv(Value lhs, int64_t rhs);
  Value size(Value tensor, int64_t dim) { return materialize(dims.get(tensor)[dim]); }
  Value materialize(AffineExpr expr) { return dims.materialize(*this, getLoc(), expr); }
  /// Index of each dimension of the row-major position `linear`.
  SmallVector<Value> delinearize(Value linear, ArrayRef<Value> sizes);

  // Loops.
  void forLoop(Value begin, Value end, int64_t step, function_ref<void(Value)> body);
  SmallVector<Value> forLoop(Value begin, Value end, int64_t step, ValueRange initial,
                             function_ref<SmallVector<Value>(Value, ValueRange)> body);
  void ifThen(Value condition, function_ref<void()> body);
  /// Lanes of a loop over [0, end) that carries values or indexes rows of that length: fewer where threads share it
  /// and the last vector would not be whole.
  int64_t lanesOver(Value end, int64_t lanes) const;
  /// Runs `body` at begin, begin + lanes, ...: full vectors, then one masked rest. A team's threads take turns; what
  /// is left over is then a loop of single elements.
  void vectorLoop(Value begin, Value end, int64_t lanes, function_ref<void(Value)> body);
  /// As vectorLoop, carrying values.
  SmallVector<Value> vectorLoop(Value begin, Value end, int64_t lanes, ValueRange initial,
                                function_ref<SmallVector<Value>(Value, ValueRange)> body);

  // Values.
  /// Lanes of an element type in one vector register.
  int64_t lanesOf(Type elementType) const;
  /// Width that suits every tensor that takes part in a kernel.
  int64_t kernelLanes(Region &region) const;
  VectorType vectorType(Type elementType) const { return VectorType::get({width}, elementType); }
  Value splat(Value value);
  Value zero(Type elementType);
  Value constant(Type elementType, double value);
  bool isVector(Value value) const { return isa<VectorType>(value.getType()); }
  /// An index as a value: scalar, or vector<width x index>.
  Value indexValue(const Index &index);
  /// Applies an affine expression to indices.
  Index apply(AffineExpr expr, ArrayRef<Index> indices);
  /// Whether the lanes are known to begin at a multiple of their number: vector loops do, what slices them need not.
  bool isAligned(const Index &index) const;
  /// A float or integer cast between element types, elementwise.
  Value convert(Value value, Type elementType);
  /// A scalar of the kernel that is being replaced (a constant or a size), made again here.
  Value scalar(Value value);
  /// Clones a scalar operation onto scalars or vectors.
  Value cloneElementwise(Operation *op, ValueRange operands);
  /// Sum, max, ... of all lanes that count, of all threads of the team.
  Value reduce(vector::CombiningKind kind, Value vector);

  // Memory.
  /// Scratch memory of one call of the kernel.
  Value allocate(MemRefType type);
  Value pull(Value tensor, ArrayRef<Index> index);
  Value load(Value buffer, Type elementType, ArrayRef<Index> index);
  void store(Value value, Value buffer, ArrayRef<Index> index);
  /// Fetches where results at `index` will be written, and what they read there beside the main operation.
  void prefetchOutputs(ArrayRef<Index> index);
  /// Fetches what will be read at `index`, if it lies in memory.
  void prefetch(Value tensor, ArrayRef<Index> index);
  /// Every result at `index`, all reads made.
  SmallVector<Value> pullOutputs(ArrayRef<Index> index);
  /// Writes every result at `index`.
  void storeOutputs(ArrayRef<Index> index);

private:
  Value linearize(Value buffer, ArrayRef<Index> index, Value &flat);
  llvm::MaybeAlign alignmentAt(Value buffer, ArrayRef<Index> index) const;
  SmallVector<Value> sharedLoop(Value begin, Value end, int64_t lanes, ValueRange initial,
                                function_ref<SmallVector<Value>(Value, ValueRange)> body);
};

/// Starts a kernel of a GPU: what `threads` of its schedule says.
Team beginTeam(KernelBuilder &kernel, ArrayRef<int64_t> threads);
/// Combines one value of each thread of the team; all get the result.
Value reduceTeam(KernelBuilder &kernel, vector::CombiningKind kind, Value value);
/// The values of all threads of the team before this one, combined in order; the first thread gets any.
Value beforeInTeam(KernelBuilder &kernel, Value value, function_ref<Value(Value, Value)> combine);

} // namespace mlir::dsc
