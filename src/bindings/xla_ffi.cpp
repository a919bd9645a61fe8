#include "xla_ffi.hpp"

#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>

#include "execute.hpp"
#include "plan_arguments.hpp"

namespace depthwise::bindings {
namespace {

constexpr std::size_t kNumbers = 24;  // op ... output, 23 of them, and the number of threads
constexpr std::size_t kMostPlans = 1024;
constexpr xla::DataType kDataTypes[kDTypes] = {xla::DataType::f16, xla::DataType::bf16, xla::DataType::f32,
                                               xla::DataType::f64};

struct Call {
  const index_t* numbers = nullptr;
  std::string_view algorithm;

  int threads() const { return static_cast<int>(numbers[kNumbers - 1]); }
};

void* attribute(const xla::Attributes& attributes, std::string_view name, xla::AttributeKind kind) {
  for (index_t i = 0; i < attributes.size; ++i)
    if (std::string_view(attributes.names[i]->data, attributes.names[i]->size) == name &&
        attributes.kinds[i] == kind)
      return attributes.values[i];
  throw std::invalid_argument("attribute " + std::string(name) + " is missing or of another type");
}

Call parse(const xla::Attributes& attributes) {
  const auto& numbers =
      *static_cast<xla::Array*>(attribute(attributes, "numbers", xla::AttributeKind::array));
  const auto& name =
      *static_cast<xla::ByteSpan*>(attribute(attributes, "algorithm", xla::AttributeKind::string));
  if (numbers.dtype != xla::DataType::s64 || numbers.size != kNumbers)
    throw std::invalid_argument("attribute numbers must have " + std::to_string(kNumbers) + " int64");
  return {static_cast<const index_t*>(numbers.data), {name.data, name.size}};
}

Plan new_plan(const Call& call) {
  const index_t* n = call.numbers;
  const auto axis = [](const index_t* v) { return AxisNumbers{v[0], v[1], v[2], v[3], v[4], v[5]}; };
  const PlanArguments arguments = {n[0],         n[1],  n[2],       n[3],  n[4],  n[5],  axis(n + 6),
                                   axis(n + 12), n[18], n[19] != 0, n[20], n[21], n[22], call.algorithm};
  return make_plan(to_spec(arguments), "", "");
}

// Each problem is planned once. A program has few of them; one with more forgets them and starts again.
std::shared_ptr<const Plan> find_plan(const Call& call) {
  static std::mutex mutex;
  static auto& plans =
      *new std::unordered_map<std::string, std::shared_ptr<const Plan>>;  // outlives every thread
  std::string key(reinterpret_cast<const char*>(call.numbers), (kNumbers - 1) * sizeof(index_t));
  key += call.algorithm;
  {
    const std::lock_guard lock(mutex);
    if (const auto found = plans.find(key); found != plans.end()) return found->second;
  }
  auto plan = std::make_shared<const Plan>(new_plan(call));
  const std::lock_guard lock(mutex);
  if (plans.size() >= kMostPlans) plans.clear();
  return plans.insert_or_assign(std::move(key), std::move(plan)).first->second;
}

void* checked_data(const xla::Buffers& buffers, index_t index, const char* name, DType dtype,
                   const index_t* shape, index_t rank) {
  if (index >= buffers.size || buffers.kinds[index] != xla::Kind::buffer)
    throw std::invalid_argument(std::string(name) + " is missing");
  const xla::Buffer& buffer = *buffers.buffers[index];
  if (buffer.dtype != kDataTypes[static_cast<int>(dtype)])
    throw std::invalid_argument(std::string(name) + " has another dtype than the plan");
  if (buffer.rank != rank || std::memcmp(buffer.dims, shape, rank * sizeof(index_t)) != 0)
    throw std::invalid_argument(std::string(name) + " has another shape than the plan");
  return buffer.data;
}

Operands operands(const xla::CallFrame& frame, const Spec& spec) {
  const Shapes shapes = operand_shapes(spec);
  const index_t bias_shape = spec.out_channels();
  if (frame.arguments.size != 2 + spec.has_bias || frame.results.size != 1)
    throw std::invalid_argument("the number of operands or results is not the plan's");
  return {checked_data(frame.arguments, 0, "the first operand", spec.dtype, shapes.first.data(), 4),
          checked_data(frame.arguments, 1, "the second operand", spec.dtype, shapes.second.data(), 4),
          spec.has_bias ? checked_data(frame.arguments, 2, "bias", spec.dtype, &bias_shape, 1) : nullptr,
          checked_data(frame.results, 0, "the result", spec.dtype, shapes.result.data(), 4)};
}

void run(const xla::CallFrame& frame) {
  const Call call = parse(frame.attributes);
  const std::shared_ptr<const Plan> plan = find_plan(call);
  execute(*plan, operands(frame, plan->spec), call.threads());
}

xla::Error* error(const xla::Api& api, xla::ErrorCode code, const char* message) {
  const std::string text = std::string("depthwise: ") + message;
  xla::ErrorCreateArguments arguments = {sizeof(xla::ErrorCreateArguments), nullptr, text.c_str(), code};
  return api.create_error(&arguments);
}

// XLA asks, before the first call, for which version of the interface the handler was made. All that is read
// here has been there since 0.0, and minor versions only add to it, so the answer is the version of who asks.
// XLA 0.1 asks without showing its interface.
bool answer_metadata(const xla::CallFrame& frame) {
  if (!frame.extensions || frame.extensions->kind != xla::ExtensionKind::metadata) return false;
  xla::Metadata& metadata = *reinterpret_cast<xla::MetadataExtension*>(frame.extensions)->metadata;
  metadata.version.major_version = 0;
  metadata.version.minor_version = frame.api ? frame.api->version.minor_version : 1;
  metadata.traits = 0;
  return true;
}

}  // namespace

xla::Error* xla_handler(xla::CallFrame* frame) noexcept {
  if (answer_metadata(*frame)) return nullptr;
  const xla::Api& api = *frame->api;
  try {
    if (frame->struct_size < sizeof(xla::CallFrame))
      return error(api, xla::ErrorCode::invalid_argument,
                   "this XLA's call frame is older than any known one");
    if (frame->stage == xla::Stage::execute) run(*frame);
    return nullptr;
  } catch (const std::bad_alloc&) {
    return error(api, xla::ErrorCode::resource_exhausted, "cannot allocate scratch memory");
  } catch (const std::invalid_argument& e) {
    return error(api, xla::ErrorCode::invalid_argument, e.what());
  } catch (const std::exception& e) {
    return error(api, xla::ErrorCode::internal, e.what());
  }
}

}  // namespace depthwise::bindings
