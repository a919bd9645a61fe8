// Compiles if src/bindings/xla_ffi_abi.hpp declares what XLA's own header does. Nothing runs.
#include <cstddef>

#include "xla/ffi/api/c_api.h"
#include "xla_ffi_abi.hpp"

namespace xla = depthwise::xla;

#define SAME_CONSTANT(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs))
#define SAME_FIELD(our_struct, our_field, their_struct, their_field)                      \
  static_assert(offsetof(our_struct, our_field) == offsetof(their_struct, their_field) && \
                sizeof(our_struct::our_field) == sizeof(their_struct::their_field))

static_assert(XLA_FFI_API_MAJOR == 0);
SAME_CONSTANT(xla::ErrorCode::invalid_argument, XLA_FFI_Error_Code_INVALID_ARGUMENT);
SAME_CONSTANT(xla::ErrorCode::resource_exhausted, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
SAME_CONSTANT(xla::ErrorCode::internal, XLA_FFI_Error_Code_INTERNAL);
SAME_CONSTANT(xla::DataType::s64, XLA_FFI_DataType_S64);
SAME_CONSTANT(xla::DataType::f16, XLA_FFI_DataType_F16);
SAME_CONSTANT(xla::DataType::f32, XLA_FFI_DataType_F32);
SAME_CONSTANT(xla::DataType::f64, XLA_FFI_DataType_F64);
SAME_CONSTANT(xla::DataType::bf16, XLA_FFI_DataType_BF16);
SAME_CONSTANT(xla::Kind::buffer, XLA_FFI_ArgType_BUFFER);
SAME_CONSTANT(xla::Kind::buffer, XLA_FFI_RetType_BUFFER);
SAME_CONSTANT(xla::AttributeKind::array, XLA_FFI_AttrType_ARRAY);
SAME_CONSTANT(xla::AttributeKind::string, XLA_FFI_AttrType_STRING);
SAME_CONSTANT(xla::ExtensionKind::metadata, XLA_FFI_Extension_Metadata);
SAME_CONSTANT(xla::Stage::execute, XLA_FFI_ExecutionStage_EXECUTE);

SAME_FIELD(xla::Extension, struct_size, XLA_FFI_Extension_Base, struct_size);
SAME_FIELD(xla::Extension, kind, XLA_FFI_Extension_Base, type);
SAME_FIELD(xla::Extension, next, XLA_FFI_Extension_Base, next);
SAME_FIELD(xla::Version, major_version, XLA_FFI_Api_Version, major_version);
SAME_FIELD(xla::Version, minor_version, XLA_FFI_Api_Version, minor_version);
static_assert(sizeof(xla::Version) == sizeof(XLA_FFI_Api_Version));
SAME_FIELD(xla::Metadata, version, XLA_FFI_Metadata, api_version);
SAME_FIELD(xla::Metadata, traits, XLA_FFI_Metadata, traits);
SAME_FIELD(xla::MetadataExtension, base, XLA_FFI_Metadata_Extension, extension_base);
SAME_FIELD(xla::MetadataExtension, metadata, XLA_FFI_Metadata_Extension, metadata);
SAME_FIELD(xla::ErrorCreateArguments, message, XLA_FFI_Error_Create_Args, message);
SAME_FIELD(xla::ErrorCreateArguments, code, XLA_FFI_Error_Create_Args, errc);
static_assert(sizeof(xla::ErrorCreateArguments) == sizeof(XLA_FFI_Error_Create_Args));
SAME_FIELD(xla::Api, version, XLA_FFI_Api, api_version);
SAME_FIELD(xla::Api, create_error, XLA_FFI_Api, XLA_FFI_Error_Create);
SAME_FIELD(xla::Buffer, dtype, XLA_FFI_Buffer, dtype);
SAME_FIELD(xla::Buffer, data, XLA_FFI_Buffer, data);
SAME_FIELD(xla::Buffer, rank, XLA_FFI_Buffer, rank);
SAME_FIELD(xla::Buffer, dims, XLA_FFI_Buffer, dims);
SAME_FIELD(xla::ByteSpan, data, XLA_FFI_ByteSpan, ptr);
SAME_FIELD(xla::ByteSpan, size, XLA_FFI_ByteSpan, len);
SAME_FIELD(xla::Array, dtype, XLA_FFI_Array, dtype);
SAME_FIELD(xla::Array, size, XLA_FFI_Array, size);
SAME_FIELD(xla::Array, data, XLA_FFI_Array, data);
SAME_FIELD(xla::Buffers, size, XLA_FFI_Args, size);
SAME_FIELD(xla::Buffers, kinds, XLA_FFI_Args, types);
SAME_FIELD(xla::Buffers, buffers, XLA_FFI_Args, args);
SAME_FIELD(xla::Buffers, size, XLA_FFI_Rets, size);
SAME_FIELD(xla::Buffers, kinds, XLA_FFI_Rets, types);
SAME_FIELD(xla::Buffers, buffers, XLA_FFI_Rets, rets);
SAME_FIELD(xla::Attributes, size, XLA_FFI_Attrs, size);
SAME_FIELD(xla::Attributes, kinds, XLA_FFI_Attrs, types);
SAME_FIELD(xla::Attributes, names, XLA_FFI_Attrs, names);
SAME_FIELD(xla::Attributes, values, XLA_FFI_Attrs, attrs);
SAME_FIELD(xla::CallFrame, extensions, XLA_FFI_CallFrame, extension_start);
SAME_FIELD(xla::CallFrame, api, XLA_FFI_CallFrame, api);
SAME_FIELD(xla::CallFrame, stage, XLA_FFI_CallFrame, stage);
SAME_FIELD(xla::CallFrame, arguments, XLA_FFI_CallFrame, args);
SAME_FIELD(xla::CallFrame, results, XLA_FFI_CallFrame, rets);
SAME_FIELD(xla::CallFrame, attributes, XLA_FFI_CallFrame, attrs);
