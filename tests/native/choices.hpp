// The numbers that decide what a test does: from a generator, or from the bytes of a fuzzer's input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>

#include "spec.hpp"

namespace depthwise::testing {

class Choices {
 public:
  virtual ~Choices() = default;
  // A number of [low, high].
  virtual index_t draw(index_t low, index_t high) = 0;
};

class RandomChoices final : public Choices {
 public:
  explicit RandomChoices(std::uint64_t seed) : random_(seed) {}

  index_t draw(index_t low, index_t high) override {
    return std::uniform_int_distribution<index_t>(low, high)(random_);
  }

 private:
  std::mt19937_64 random_;
};

// A choice takes as few bytes as its range needs, so that a small change of the input is a small change of
// the problem. After the last byte every choice is the lowest.
class ByteChoices final : public Choices {
 public:
  ByteChoices(const std::uint8_t* data, std::size_t size) : data_(data), end_(data + size) {}

  index_t draw(index_t low, index_t high) override {
    const std::uint64_t last = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
    std::uint64_t value = 0;
    for (std::uint64_t reach = 0; reach < last && data_ < end_; reach = reach << 8 | 255)
      value = value << 8 | *data_++;
    const std::uint64_t offset = last == ~std::uint64_t{0} ? value : value % (last + 1);
    return static_cast<index_t>(static_cast<std::uint64_t>(low) + offset);
  }

 private:
  const std::uint8_t* data_;
  const std::uint8_t* end_;
};

}  // namespace depthwise::testing
