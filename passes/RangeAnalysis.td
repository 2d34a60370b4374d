#ifndef PASSES_RANGEANALYSIS_TD
#define PASSES_RANGEANALYSIS_TD

def RangeAnalysisPass : Dsc_Pass<"dsc-range-analysis"> {
  let summary = "Write which values each operation can give, and where formats would overflow";
  let description = [{
    Intervals and norms of rows go forward through every function
    (`RangeOpInterface`), from what arguments say in `dsc.range`; an argument
    without it may hold any number. A cache holds what the program's own calls
    appended. Nothing is said of NaN: no value is assumed to be one, and sums
    over a dynamic dimension are assumed to round at most 2^17 times.

    `ranges` names a JSON file of ranges that were seen on data. They are used
    where no bound is proved, and what follows from one is `calibrated` too:

    ```json
    {"version": 1, "ranges": [{"at": "layers.0/mlp/up_proj", "op": "dsc.matmul", "lo": -3.5, "hi": 4.25, "norm": 20.0} ]}
    ```

    `dsc.hazards` lists formats that cannot hold the result: `overflow` where the
    range exceeds the largest finite number, `underflow` where all of it lies
    below the smallest normal one. With `errors`, `dsc.errors` holds for each
    format the error of rounding to it the first operand (`lhs`), the other or
    stored one (`rhs`), the result, and all of them, while sums are kept as the
    operation says: bound and estimate, in multiples of the format's unit
    roundoff (2^-8 for int8). `f32` is the error without any of these.

    ```mlir
    %y = dsc.rms_norm %x, %w {eps = 1.0e-05 : f64} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
    ==>
    %y = dsc.rms_norm %x, %w {dsc.range = #dsc.range<[-16.0, 16.0], norm = 16.0, proved>, ...} : ...
    ```
  }];
  let options = [
    Option<"ranges", "ranges", "std::string", "", "file of calibrated ranges">,
    Option<"errors", "errors", "bool", "false", "also write what rounding to each format costs">,
    Option<"all", "all", "bool", "false", "also write the ranges of operations of other dialects">];
  let statistics = [Statistic<"proved", "proved", "results with a proved bound">,
                    Statistic<"calibrated", "calibrated", "results with a bound that follows from data">,
                    Statistic<"unknown", "unknown", "results without a bound">];
}

#endif
