// The part of XLA's foreign function interface that a handler needs, after its C ABI (xla/ffi/api/c_api.h,
// version 0.x).
//
// Declared here so that the build needs no JAX: the header ships only inside jaxlib, a hundred megabytes for
// a few structs. Within a major version the ABI only ever appends fields. tests/native/xla_abi.cpp compares
// every size, offset and constant below with the header of the jaxlib that the tests run with.
#pragma once

#include <cstddef>
#include <cstdint>

namespace depthwise::xla {

struct Error;  // owned by XLA once returned

enum class ErrorCode : int { invalid_argument = 3, resource_exhausted = 8, internal = 13 };
enum class DataType : int { s64 = 5, f16 = 10, f32 = 11, f64 = 12, bf16 = 16 };
enum class Kind : int { buffer = 1 };                      // of an argument or a result
enum class AttributeKind : int { array = 1, string = 4 };  // of those that we use
enum class ExtensionKind : int { metadata = 1 };
enum class Stage : int { execute = 3 };

struct Extension {
  std::size_t struct_size;
  ExtensionKind kind;
  Extension* next;
};

struct Version {
  std::size_t struct_size;
  Extension* extensions;
  int major_version, minor_version;
};

struct Metadata {
  std::size_t struct_size;
  Version version;
  std::uint32_t traits;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

struct ErrorCreateArguments {
  std::size_t struct_size;
  Extension* extensions;
  const char* message;
  ErrorCode code;
};

struct Api {
  std::size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(ErrorCreateArguments*);
};

struct Buffer {
  std::size_t struct_size;
  Extension* extensions;
  DataType dtype;
  void* data;
  std::int64_t rank;
  std::int64_t* dims;
};

struct ByteSpan {
  const char* data;
  std::size_t size;
};

struct Array {
  DataType dtype;
  std::size_t size;
  void* data;
};

struct Buffers {
  std::size_t struct_size;
  Extension* extensions;
  std::int64_t size;
  Kind* kinds;
  Buffer** buffers;  // as `kinds` says; buffers are the only kind
};

struct Attributes {
  std::size_t struct_size;
  Extension* extensions;
  std::int64_t size;
  AttributeKind* kinds;
  ByteSpan** names;
  void** values;
};

struct CallFrame {
  std::size_t struct_size;
  Extension* extensions;
  const Api* api;
  void* context;
  Stage stage;
  Buffers arguments, results;
  Attributes attributes;
};

}  // namespace depthwise::xla
