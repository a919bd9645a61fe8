// Runs the fuzzer's code where there is no fuzzer: on files, such as a corpus or a finding, or on random
// inputs.
//
//   fuzz FILE...                    fuzz --random COUNT [SEED]
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

int run_random(int count, std::uint64_t seed) {
  std::printf("fuzz --random %d %llu\n", count, static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  std::mt19937_64 random(seed);
  for (int i = 0; i < count; ++i) {
    std::vector<std::uint8_t> input(64);
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(random());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  return 0;
}

int run_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "fuzz: cannot read %s\n", path);
    return 2;
  }
  const std::vector<char> input{std::istreambuf_iterator<char>(file), {}};
  return LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 && std::strcmp(argv[1], "--random") == 0)
    return run_random(std::atoi(argv[2]),
                      argc > 3 ? std::strtoull(argv[3], nullptr, 0) : std::random_device{}());
  for (int i = 1; i < argc; ++i)
    if (const int status = run_file(argv[i])) return status;
  return 0;
}
