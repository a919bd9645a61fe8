#include "calls.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <span>

#include "arrays.hpp"

namespace nb = nanobind;

namespace depthwise::bindings {
namespace {

// The values of a call's arguments as a sequence of numbers, which differs wherever the arguments do.
class Key {
 public:
  Key(nb::handle a, nb::handle b, nb::handle bias, nb::handle settings) {
    add_array(a.ptr());
    add_array(b.ptr());
    add(!bias.is_none());
    add_value(settings.ptr());
  }

  // Empty if an argument is of a kind that is not remembered, or if there are too many.
  std::span<const index_t> words() const { return {words_, valid_ ? size_ : 0}; }

  std::size_t hash() const {
    std::uint64_t hash = 0;
    for (const index_t word : words()) {
      hash = (hash ^ static_cast<std::uint64_t>(word)) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 32;
    }
    return hash;
  }

 private:
  enum Kind : index_t { kNone, kInteger, kString, kTuple, kList };

  void add(index_t word) {
    valid_ = valid_ && size_ < kMost;
    if (valid_) words_[size_++] = word;
  }

  void add_array(PyObject* object) {
    const ArrayKind array = array_kind(object);
    valid_ = valid_ && array.ndim >= 0;
    add(array.type_number);
    add(array.ndim);
    for (int i = 0; i < array.ndim; ++i) add(array.shape[i]);
  }

  void add_value(PyObject* value) {
    if (value == Py_None)
      add(kNone);
    else if (PyLong_CheckExact(value))
      add_integer(value);
    else if (PyUnicode_CheckExact(value))
      add_string(value);
    else if (PyTuple_CheckExact(value))
      add_items(kTuple, value, PyTuple_GET_SIZE(value), PyTuple_GetItem);
    else if (PyList_CheckExact(value))
      add_items(kList, value, PyList_GET_SIZE(value), PyList_GetItem);
    else
      valid_ = false;
  }

  void add_integer(PyObject* value) {
    int overflow = 0;
    add(kInteger);
    add(PyLong_AsLongLongAndOverflow(value, &overflow));
    valid_ = valid_ && overflow == 0;
  }

  void add_string(PyObject* value) {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(value, &size);
    if (!text) {
      PyErr_Clear();
      valid_ = false;
      return;
    }
    add(kString);
    add(size);
    for (; valid_ && size > 0; text += sizeof(index_t), size -= sizeof(index_t)) {
      index_t word = 0;
      std::memcpy(&word, text, std::min<std::size_t>(size, sizeof word));
      add(word);
    }
  }

  void add_items(Kind kind, PyObject* items, Py_ssize_t size, PyObject* (*item)(PyObject*, Py_ssize_t)) {
    add(kind);
    add(size);
    for (Py_ssize_t i = 0; valid_ && i < size; ++i) add_value(item(items, i));
  }

  static constexpr int kMost = 80;
  index_t words_[kMost];
  std::size_t size_ = 0;
  bool valid_ = true;
};

nb::any none() { return nb::steal<nb::any>(nb::none().release()); }

}  // namespace

nb::any Calls::recall(nb::handle a, nb::handle b, nb::handle bias, nb::handle out,
                      nb::handle settings) const {
  const Key key(a, b, bias, settings);
  const std::span<const index_t> words = key.words();
  const Call& call = calls_[key.hash() % kSlots];
  const auto is_plain = [](nb::handle array) { return array.is_none() || array_kind(array.ptr()).ndim >= 0; };
  if (words.empty() || !std::ranges::equal(words, call.key) || !is_plain(bias) || !is_plain(out))
    return none();
  const nb::object plan = call.plan;  // another thread may use the slot while this one computes
  try {
    return nb::inst_ptr<PyPlan>(plan)->run(a, b, bias, out, call.threads, nullptr);
  } catch (const nb::builtin_exception&) {  // about the bias or `out`, before anything is computed
  } catch (const std::bad_alloc&) {
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_MemoryError)) throw;
  }
  return none();
}

void Calls::remember(nb::handle plan, int threads, nb::handle a, nb::handle b, nb::handle bias,
                     nb::handle settings) {
  const Key key(a, b, bias, settings);
  if (!nb::isinstance<PyPlan>(plan)) throw nb::type_error("plan must be a Plan");
  const std::span<const index_t> words = key.words();
  if (words.empty()) return;
  // What was there is released last: that may run Python code, which may come here again.
  Call call{{words.begin(), words.end()}, nb::borrow(plan), threads};
  std::swap(calls_[key.hash() % kSlots], call);
}

}  // namespace depthwise::bindings
