# depthwise_isa(name FLAGS <compiler flags> FEATURES <names of __builtin_cpu_supports that the machine must have>)
#
# Compiles the kernels once more, as the object library depthwise_kernels_<name>, and adds the row to isas.def.
set(DEPTHWISE_ISAS "" CACHE STRING "Instruction sets to compile, e.g. avx2;sse2, for quick builds; all when empty")
set(DEPTHWISE_ISA_LIBRARIES)
file(GLOB DEPTHWISE_KERNEL_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/core/kernels/*.cpp)
set(DEPTHWISE_ISA_ROWS "")

function(depthwise_isa name)
  cmake_parse_arguments(ISA "" "" "FLAGS;FEATURES" ${ARGN})
  if(DEPTHWISE_ISAS AND NOT name IN_LIST DEPTHWISE_ISAS)
    return()
  endif()
  set(library depthwise_kernels_${name})
  add_library(${library} OBJECT ${DEPTHWISE_KERNEL_SOURCES})
  target_compile_definitions(${library} PRIVATE DEPTHWISE_ISA=${name})
  # Sanitizers multiply the unrolled code, and the compiler's time on it. -O1, checks of addresses by calls, and of
  # undefined behaviour where it is not about pointers, which the address sanitizer watches, keep it bearable.
  set(optimise -O3)
  if(DEPTHWISE_SANITIZE)
    set(optimise -O1)
  endif()
  if(DEPTHWISE_SANITIZE MATCHES "undefined")
    list(APPEND optimise -fno-sanitize=null,alignment,object-size,pointer-overflow,vptr)
  endif()
  if(DEPTHWISE_SANITIZE MATCHES "address")
    set(by_calls asan-instrumentation-with-call-threshold=0)
    if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
      list(APPEND optimise "SHELL:-mllvm -${by_calls}")
    else()
      list(APPEND optimise "SHELL:--param ${by_calls}")
    endif()
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # whose own AVX-512 functions start from undefined vectors
    list(APPEND optimise -Wno-maybe-uninitialized)
  endif()
  # No contraction: simd::fma says where a multiply-add is fused, so that every kernel rounds alike.
  target_compile_options(${library} PRIVATE ${ISA_FLAGS} ${optimise} -ffp-contract=off -fno-math-errno -fno-exceptions -fno-rtti)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")  # whose test for features does not know it; no CPU has AVX2 without it
    list(REMOVE_ITEM ISA_FEATURES f16c)
  endif()
  list(TRANSFORM ISA_FEATURES REPLACE "(.+)" "DEPTHWISE_FEATURE(\\1)" OUTPUT_VARIABLE features)
  list(JOIN features " " features)
  set(DEPTHWISE_ISA_LIBRARIES ${DEPTHWISE_ISA_LIBRARIES} ${library} PARENT_SCOPE)
  set(DEPTHWISE_ISA_ROWS "${DEPTHWISE_ISA_ROWS}DEPTHWISE_ISA_ROW(${name}, ${features})\n" PARENT_SCOPE)
endfunction()

# Best first.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  depthwise_isa(avx512 FLAGS -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512
                FEATURES avx512f avx512bw avx512dq avx512vl avx2 fma f16c)
  depthwise_isa(avx2 FLAGS -mavx2 -mfma -mf16c FEATURES avx2 fma f16c)
  depthwise_isa(sse2 FLAGS -msse2 FEATURES sse2)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  depthwise_isa(neon)
else()
  message(FATAL_ERROR "depthwise: cmake/isas.cmake has no row for ${CMAKE_SYSTEM_PROCESSOR}")
endif()

file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/generated/isas.def CONTENT "${DEPTHWISE_ISA_ROWS}")
