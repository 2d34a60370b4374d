//===- MatmulEmitter.h - loop nest of a matrix product --------------------===//
#pragma once
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {

/// Sizes of a product: leading dims are rows unless the right side has them too.
struct MatmulShape {
  Dims batch, rows; // rows: every dimension that is a row of one matrix
  AffineExpr columns, depth;
};
MatmulShape matmulShape(MatmulOp op, DimsAnalysis &dims);

/// Type of the sums.
Type accumulatorOf(MatmulOp op);

/// Adjacent elements along the reduction that lie together in the right side.
int64_t groupOf(MatmulOp op);

/// Elements along the reduction that share a scale in the right side, 0: it has none.
int64_t runOf(MatmulOp op);

/// How many such runs are read together.
int64_t runsTogether(MatmulOp op);

/// What they stand for where such elements are integer codes, else nothing.
std::optional<RunCodes> runCodesOf(MatmulOp op);

/// Whether such codes meet bytes, in vectors of `lanes` sums and tiles of `rows`; else they meet words.
bool multipliesCodeBytes(int64_t run, RunCodes codes, int64_t lanes, int64_t rows);

/// Rows of a machine tile, each of 64 bytes; there are eight (Intel SDM vol. 1, chapter 18).
constexpr int64_t kMachineTileRows = 16, kMachineTiles = 8;

/// Integers along the reduction that share a scale (MatmulScaled.cpp), and whole parts of them that are multiplied.
constexpr int64_t kScaledSteps = 256, kScaledPart = 64;

/// What a schedule means for one product.
struct MatmulPlan {
  int64_t lanes, vectors, tileRows, tilesPerWorkgroup, unroll;
  int64_t block;  // steps of the reduction for all rows of a workgroup at a time, 0: all
  int64_t group;  // adjacent elements along the reduction that are multiplied together
  int64_t run;    // elements that share a scale, which is applied to their sum; 0: elements are read as they are
  bool dots;      // else multiply-add on widened elements
  bool tiles;     // whole tiles of the machine are multiplied
  bool scaled;    // dots are of integers under scales, which are applied to the sum of kScaledSteps
  bool codes;     // dots are of the right side's codes and integers under scales, which are applied to the sum of a run
  bool codeBytes; // such integers are split into bytes, else they are words
  VariantAttr variant;
  MemRefType stageType;    // [block of k, tile of rows, k by row], or null: the left side is read where it lies;
                           // of machine tiles: [block of k, tile of rows, 64 bytes of k by row by 64 bytes]
  MemRefType rhsStageType; // [group of k in the block, columns of the tile in groups], or null

  /// Elements of the stage for one integer that meets codes.
  int64_t codeParts() const { return codeBytes ? 2 : 1; }
};

/// Writes the loop nest of workgroups. For every group of k, the tile's columns are loaded as vectors and every
/// row's scalar is multiplied in.
class MatmulEmitter : MatmulPlan {
public:
  MatmulEmitter(MatmulOp op, KernelBuilder &kernel, const MatmulPlan &plan);
  void workgroup();

private:
  /// One tile of rows and columns.
  struct Tile {
    SmallVector<Value> rowNumbers;
    SmallVector<SmallVector<Index>> rowIndices;
    SmallVector<Value> masks; // of columns
    Value column;
    bool fetchesResults = false; // its products are the last ones
  };
  /// What the workgroup reads next of the panels, seen as one row: its tiles of rows share the work of fetching it.
  struct Prefetch {
    Value panels, first, perTurn; // elements
    int64_t lines;                // per turn of the loop
  };

  // Operands (MatmulOperands.cpp).
  SmallVector<Value> loadRhs(Value column, int64_t v, Value k, Value columnMask);
  Value loadGroup(Value panel, int64_t v, Value step);
  SmallVector<Value> widened(Value groups);
  Value splatMembers(ArrayRef<Value> at, int64_t count);
  SmallVector<Value> loadLhs(const Tile &tile, int64_t r, Value k);
  SmallVector<Value> stageIndex(Value firstRow, int64_t r, Value k);
  void fillStage(Value begin, Value end);
  Value stagedValue(ArrayRef<Index> at, Type element);
  void storeInterleaved(ArrayRef<Value> values, Value number, Value tile, Value k);
  void addToRun(Value row, Value k, Value value);
  void fillRhsStage(Value column, Value begin, Value end);
  SmallVector<ScaledRun> runsAt(Value column, int64_t v, Value number);
  /// Calls `body(i, carried)` for every four elements of a run: in a loop where runs are read together, which keeps
  /// LLVM from loading the words that they share once, and storing them.
  SmallVector<Value> forFours(ValueRange initial, function_ref<SmallVector<Value>(Value, ValueRange)> body) {
    if (together > 1)
      return kernel.forLoop(kernel.constantIndex(0), kernel.constantIndex(run / 4), 1, initial, body);
    SmallVector<Value> carried(initial);
    for (int64_t i = 0; i < run / 4; ++i)
      carried = body(kernel.constantIndex(i), carried);
    return carried;
  }
  void forFours(function_ref<void(Value)> body) {
    forFours({}, [&](Value i, ValueRange) {
      body(i);
      return SmallVector<Value>();
    });
  }
  Value runValue(const ScaledRun &part, Value i, int64_t j);
  SmallVector<Value> startOf(Value column);
  void prefetchStage(const Tile &tile, Value k);
  Prefetch prefetchAfter(const Tile &tile, Value begin, Value end);

  // Tiles (MatmulEmitter.cpp).
  Tile tileAt(Value firstRow, Value column, bool checked);
  SmallVector<Value> columnMasks(Value column);
  void addStep(const Tile &tile, Value k, MutableArrayRef<Value> acc);
  SmallVector<Value> accumulate(const Tile &tile, Value begin, Value end, ArrayRef<Value> sums);
  SmallVector<Value> accumulateRuns(const Tile &tile, ArrayRef<Value> sums);
  void addRuns(const Tile &tile, Value first, ArrayRef<SmallVector<ScaledRun>> right, MutableArrayRef<Value> acc);
  void prefetchResults(const Tile &tile, Value number);
  void prefetchTurn(const Tile &tile, const Prefetch &next, Value k, Value turn);
  void prefetchNext(const Prefetch &next, Value turn);
  void finishRow(const Tile &tile, ArrayRef<Index> row, ArrayRef<Value> sums);
  void finish(const Tile &tile, ArrayRef<Value> sums, bool checked);
  void forTiles(Value begin, Value end, function_ref<void(Value, bool)> body);
  void columnTile(Value column, Value rowBegin, Value rowEnd);

  // Integers under scales (MatmulScaled.cpp).
  Value gatherScaledRow(ArrayRef<Index> row, Value k, Value end, int64_t part);
  Value loadRowFloats(Value first, int64_t offset);
  void fillScaledStage(Value begin, Value end);
  int64_t pairsPerTurn();
  Value loadPairs(Value column, int64_t v, Value k, int64_t i);
  Value greatestOfColumns(Value column, int64_t v, Value begin, Value end);
  void scaleCodes(ArrayRef<ScaledRun> runs, Value factor, function_ref<void(Value, Value)> store);
  void fillScaledRhsStage(Value column, Value begin, Value end);

  SmallVector<Value> accumulateScaled(const Tile &tile, Value begin, Value end, ArrayRef<Value> sums);

  /// Neighbours along the reduction, every four of them in the order of `codeWords`.
  Value inOrderOfCodes(Value integers);
  /// Four codes in each lane as words: the first and third, the second and fourth.
  std::array<Value, 2> codeWords(Value codes);

  // Integer codes as they are stored (MatmulCodes.cpp).
  Value codeStageAt(Value r, Value number);
  void storeCodeFactors(SmallVector<Value> integers, Value tile, Value at);
  std::array<Value, 2> codeFactors(Value codes);
  void fillCodeStage(Value begin, Value end);
  void multiplyCodes(ArrayRef<Value> codes, Value left, MutableArrayRef<Value> sums);
  Value joinCodeSums(ArrayRef<Value> sums);
  void addCodes(const Tile &tile, Value first, ArrayRef<SmallVector<ScaledRun>> right, MutableArrayRef<Value> acc);

  // Tiles of the machine (MatmulTiles.cpp).
  void configureTiles();
  void fillTileStage(Value begin, Value end);
  void fillLastChunk(Value column);
  void accumulateTiles(const Tile &tile, Value sums, Value begin, Value end);
  void finishTiles(const Tile &tile, Value sums, Value end);
  void tileColumns(Value column, Value rowBegin, Value rowEnd);

  SmallVector<Index> rowIndex(Value row) {
    return llvm::map_to_vector(kernel.delinearize(row, rowSizes), [](Value v) { return Index::uniform(v); });
  }
  /// One sum per accumulator: several steps per turn, so that counting does not compete with multiplying.
  int64_t stepsPerTurn() const { return tiles ? kMachineTileRows : unroll > 1 ? unroll : scaled ? 8 : 4; }
  /// Elements along the reduction in one row of a machine tile.
  int64_t chunk() const { return kMachineTileRows * group; }
  /// Dimensions of a packed left side that are one tile of rows, in the layout of a stage.
  SmallVector<ReassociationIndices> packedTiles() {
    SmallVector<ReassociationIndices> dims{{0}, {1, 2}};
    if (cast<RankedTensorType>(op.getLhs().getType()).getRank() == 4)
      dims[1].push_back(3);
    return dims;
  }
  int64_t staticDepth() { return cast<AffineConstantExpr>(shape.depth).getValue(); }
  VectorType vectorOf(int64_t count, Type type) { return VectorType::get({count}, type); }
  Value bitcast(Value value, int64_t count, Type type) {
    return vector::BitCastOp::create(kernel, vectorOf(count, type), value);
  }
  Value multiplyAdd(Value a, Value b, Value acc);
  Value addValues(Value a, Value b);

  MatmulOp op;
  KernelBuilder &kernel;
  MatmulShape shape;
  Type accType;
  SmallVector<Index> batch;
  SmallVector<Value> rowSizes;
  Value rows, columns, depth;
  bool masksColumns;
  std::optional<RunCodes> runCodes; // of the right side
  int64_t together;                 // its runs that are read together
  Value stage, stageBegin;          // the left side from row `stageBegin` on; packed, all of it
  Value stageBlock, stageK;         // the block of k that is read, and its first k
  Value runSums;                    // of the staged rows: the sum of each run
  Value rhsStage, rhsBegin;         // the right side from element `rhsBegin` of the reduction on
  Value tileShare;                  // elements of the next panel that a tile of rows fetches per turn of its loop
  Value partial;                    // sums of the workgroup's rows by one tile of columns
  Value lastChunk;                  // of the right side by one tile of columns, behind its end zeros
  Value lhsScales;                  // of the staged rows: the scale of each block of integers
  Value rhsScales;                  // of the staged columns, block by block
  Value rowFloats;                  // of one row, on their way to integers
  Value integerRows;                // integers of a tile's rows on their way to the stage
};

} // namespace mlir::dsc
