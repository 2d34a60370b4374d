//===- DscExtension.cpp - what Python calls in our C++ --------------------===//

#include "dialects/capi/Dsc.h"
#include "mlir-c/Support.h"
#include "mlir/Bindings/Python/NanobindAdaptors.h"

namespace nb = nanobind;

static void append(MlirStringRef text, void *out) { static_cast<std::string *>(out)->append(text.data, text.length); }

static MlirStringRef ref(const std::string &text) { return mlirStringRefCreate(text.data(), text.size()); }

NB_MODULE(_dsc, m) {
  m.doc() = "The dsc dialect and its compiler.";

  m.def(
      "register", [](MlirContext context) { dscRegisterAll(context); }, nb::arg("context"),
      "Loads every dialect that a dsc module uses.");

  m.def("register_passes", [] { dscRegisterPasses(); }, "Registers the passes by name.");

  m.def(
      "run_phases",
      [](MlirModule module, const std::string &target, const std::string &from, const std::string &to,
         const std::string &plan, const std::string &schedules, const std::string &record,
         const std::string &reproducerDir) {
        std::string reproducer;
        bool ok =
            mlirLogicalResultIsSuccess(dscRunPhases(module, ref(target), ref(from), ref(to), ref(plan), ref(schedules),
                                                    ref(record), ref(reproducerDir), append, &reproducer));
        return nb::make_tuple(ok, reproducer);
      },
      nb::arg("module"), nb::arg("target"), nb::arg("from_phase"), nb::arg("to_phase"), nb::arg("plan"),
      nb::arg("schedules"), nb::arg("record"), nb::arg("reproducer_dir"),
      "Runs phases on a module; (success, path of the reproducer or '').");

  m.def(
      "emit_object",
      [](MlirModule module) {
        std::string object, manifest;
        if (mlirLogicalResultIsFailure(dscEmitObject(module, append, append, &object, &manifest)))
          throw nb::value_error("no object could be made of the module");
        return nb::make_tuple(nb::bytes(object.data(), object.size()), manifest);
      },
      nb::arg("module"), "Object code and manifest (JSON) of a module at the end of phase llvm.");

  m.def(
      "emit_assembly",
      [](MlirModule module) {
        std::string text;
        if (mlirLogicalResultIsFailure(dscEmitAssembly(module, append, &text)))
          throw nb::value_error("no assembly could be made of the module");
        return text;
      },
      nb::arg("module"), "Assembly text of a module at the end of phase llvm.");

  m.def(
      "describe_target",
      [](const std::string &target) {
        std::string text;
        if (mlirLogicalResultIsFailure(dscDescribeTarget(ref(target), append, &text)))
          throw nb::value_error(text.c_str());
        return text;
      },
      nb::arg("target"), "Canonical description of a target name; ValueError for an unknown one.");
}
