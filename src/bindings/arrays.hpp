// NumPy arrays at the boundary: checked, brought into C order where they are not, released on scope exit.
#pragma once

#include <Python.h>

#include <string>

#include "kernel_table.hpp"
#include "plan_arguments.hpp"

namespace depthwise::bindings {

// Loads NumPy's C interface and the type number of ml_dtypes.bfloat16; throws nanobind::python_error.
void import_numpy();

// A C-contiguous, aligned, native-endian view of an array: the array itself if it is one, else a copy.
class Input {
 public:
  Input(PyObject* array, const char* name, Element element, const index_t* shape, int ndim);
  ~Input() { Py_XDECREF(array_); }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  const void* data() const;
  bool overlaps(PyObject* other) const;

 private:
  PyObject* array_ = nullptr;  // what is read
  PyObject* given_;            // what was passed; borrowed
  const char* name_;
};

// What tells apart arrays that the same plan can take from others; `ndim` is -1 for anything but a plain
// numpy.ndarray of at most as many axes as there is room for.
struct ArrayKind {
  int type_number, ndim;
  Shape shape;
};
ArrayKind array_kind(PyObject* array);

// The given array, checked to be writable and in C order, or a new one for None, placed for what is computed
// from `input`: `alike`, where it lies as that does, as far as cache lines go. Returns a new reference.
PyObject* output(PyObject* out, Element element, const Shape& shape, const Input& input, bool alike);
void* output_data(PyObject* array);

}  // namespace depthwise::bindings
