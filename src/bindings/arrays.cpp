#include "arrays.hpp"

#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>

#include <stdexcept>
#include <utility>

#include "result_memory.hpp"

namespace nb = nanobind;

namespace depthwise::bindings {
namespace {

// In the order of Element.
int g_type_numbers[kElements] = {NPY_HALF, -1, NPY_FLOAT, NPY_DOUBLE, NPY_UINT8, NPY_INT16, NPY_UINT16};

PyArrayObject* as_array(PyObject* object) { return reinterpret_cast<PyArrayObject*>(object); }

std::string shape_text(const npy_intp* shape, int ndim) {
  std::string text = "(";
  for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (ndim == 1 ? ",)" : ")");
}

void check_array(PyObject* object, const char* name, Element element, const index_t* shape, int ndim) {
  if (!PyArray_Check(object))
    throw nb::type_error(
        (std::string(name) + " must be a numpy.ndarray, got " + Py_TYPE(object)->tp_name).c_str());
  PyArrayObject* array = as_array(object);
  if (PyArray_TYPE(array) != g_type_numbers[static_cast<int>(element)])
    throw nb::value_error((std::string(name) + " has another dtype than the plan").c_str());
  bool same = PyArray_NDIM(array) == ndim;
  for (int i = 0; same && i < ndim; ++i) same = PyArray_DIM(array, i) == shape[i];
  if (same) return;
  npy_intp expected[4];
  for (int i = 0; i < ndim; ++i) expected[i] = shape[i];
  throw nb::value_error((std::string(name) + " must have shape " + shape_text(expected, ndim) + ", got " +
                         shape_text(PyArray_DIMS(array), PyArray_NDIM(array)))
                            .c_str());
}

struct Extent {
  const char *begin, *end;
};

Extent extent(PyArrayObject* array) {
  const char *low = PyArray_BYTES(array), *high = low;
  for (int i = 0; i < PyArray_NDIM(array); ++i) {
    if (PyArray_DIM(array, i) == 0) return {low, low};
    const npy_intp reach = PyArray_STRIDE(array, i) * (PyArray_DIM(array, i) - 1);
    (reach < 0 ? low : high) += reach;
  }
  return {low, high + PyArray_ITEMSIZE(array)};
}

// What keeps a large result's memory until the array, and all views of it, are gone.
PyObject* capsule_of(ResultMemory memory) {
  PyObject* const capsule = PyCapsule_New(memory.data, nullptr, [](PyObject* self) {
    return_memory(
        {PyCapsule_GetPointer(self, nullptr), reinterpret_cast<std::size_t>(PyCapsule_GetContext(self))});
  });
  if (capsule && PyCapsule_SetContext(capsule, reinterpret_cast<void*>(memory.bytes)) == 0) return capsule;
  capsule ? Py_DECREF(capsule) : return_memory(memory);
  return nullptr;
}

// From a result to what it is computed from, as far as the low bits of addresses go that choose the sets of
// the first-level cache, and by which a processor takes a load for one of what has just been stored: kernels
// load next what lies right behind what they have stored, so a result must not begin shortly behind its
// input.
constexpr std::uintptr_t kDistance = 4 * kLineBytes;

// Who owns memory of at least so many bytes, and where in it they begin: with a cache line or, `alike`, where
// the input's do; unless they are very many, at that distance from `input`.
std::pair<PyObject*, char*> placed_memory(npy_intp bytes, const void* input, bool alike) {
  if (static_cast<std::size_t>(bytes) > kLeastKept) {
    const ResultMemory memory = take_memory(bytes);
    if (!memory.data) return {PyErr_NoMemory(), nullptr};
    return {capsule_of(memory), static_cast<char*>(memory.data)};
  }
  npy_intp padded = bytes + kWayBytes - 1;
  PyObject* const owner = PyArray_SimpleNew(1, &padded, NPY_UINT8);
  if (!owner) return {nullptr, nullptr};
  char* const data = PyArray_BYTES(as_array(owner));
  const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(input), from = alike ? at : at - at % kLineBytes;
  return {owner, data + (from - kDistance - reinterpret_cast<std::uintptr_t>(data)) % kWayBytes};
}

// A new array; a large one begins at a cache line, or where its input does: vectors that straddle lines are
// slow to store, and only aligned ones can be written past the caches. NumPy's own arrays begin anywhere.
PyObject* new_array(int type_number, npy_intp* dims, const void* input, bool alike) {
  constexpr npy_intp kLarge = 16 << 10;
  PyArray_Descr* const type = PyArray_DescrFromType(type_number);
  npy_intp bytes = PyDataType_ELSIZE(type);
  for (int i = 0; i < 4; ++i) bytes *= dims[i];
  if (bytes < kLarge) return PyArray_NewFromDescr(&PyArray_Type, type, 4, dims, nullptr, nullptr, 0, nullptr);
  const auto [owner, data] = placed_memory(bytes, input, alike);
  if (!owner) return Py_DECREF(type), nullptr;
  PyObject* const array =
      PyArray_NewFromDescr(&PyArray_Type, type, 4, dims, nullptr, data, NPY_ARRAY_CARRAY, nullptr);
  if (!array) return Py_DECREF(owner), nullptr;
  if (PyArray_SetBaseObject(as_array(array), owner) < 0) return Py_DECREF(array), nullptr;  // takes `owner`
  return array;
}

}  // namespace

void import_numpy() {
  if (_import_array() < 0) throw nb::python_error();
  const nb::object dtype =
      nb::module_::import_("numpy").attr("dtype")(nb::module_::import_("ml_dtypes").attr("bfloat16"));
  g_type_numbers[static_cast<int>(Element::bf16)] = reinterpret_cast<PyArray_Descr*>(dtype.ptr())->type_num;
}

Input::Input(PyObject* array, const char* name, Element element, const index_t* shape, int ndim)
    : given_(array), name_(name) {
  check_array(array, name, element, shape, ndim);
  if (PyArray_ISCARRAY_RO(as_array(array))) {
    array_ = Py_NewRef(array);
    return;
  }
  array_ = PyArray_FromArray(as_array(array), PyArray_DescrFromType(PyArray_TYPE(as_array(array))),
                             NPY_ARRAY_CARRAY_RO | NPY_ARRAY_NOTSWAPPED | NPY_ARRAY_ENSURECOPY);
  if (!array_) throw nb::python_error();
}

const void* Input::data() const { return PyArray_DATA(as_array(array_)); }

bool Input::overlaps(PyObject* other) const {
  const Extent a = extent(as_array(given_)), b = extent(as_array(other));
  return a.begin < b.end && b.begin < a.end;
}

ArrayKind array_kind(PyObject* object) {
  ArrayKind kind{-1, -1, {}};
  if (!PyArray_CheckExact(object)) return kind;
  PyArrayObject* const array = as_array(object);
  const int ndim = PyArray_NDIM(array);
  if (ndim > static_cast<int>(kind.shape.size())) return kind;
  kind.type_number = PyArray_TYPE(array), kind.ndim = ndim;
  for (int i = 0; i < ndim; ++i) kind.shape[i] = PyArray_DIM(array, i);
  return kind;
}

PyObject* output(PyObject* out, Element element, const Shape& shape, const Input& input, bool alike) {
  if (out == Py_None) {
    npy_intp dims[4] = {shape[0], shape[1], shape[2], shape[3]};
    PyObject* const fresh = new_array(g_type_numbers[static_cast<int>(element)], dims, input.data(), alike);
    if (!fresh) throw nb::python_error();
    return fresh;
  }
  check_array(out, "out", element, shape.data(), 4);
  if (!PyArray_ISCARRAY(as_array(out)))
    throw nb::value_error("out must be writable, C-contiguous, aligned and of native byte order");
  return Py_NewRef(out);
}

void* output_data(PyObject* array) { return PyArray_DATA(as_array(array)); }

}  // namespace depthwise::bindings
