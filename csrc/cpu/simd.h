// Function multiversioning: a kernel's inner loop compiled for the baseline, AVX2 and AVX-512.
//
// The loops are plain C++ for the compiler to vectorise. Contraction into FMA is off, so all
// versions give the same bits. `struct Kernel { static CUEKIT_INLINE void run(...); };` is called
// as `dispatch<Kernel>(...)`: being inlined into a function of that target is what compiles it for
// the target.
#pragma once

#include <atomic>

#if defined(__GNUC__)
#define CUEKIT_INLINE inline __attribute__((always_inline))
#else
#define CUEKIT_INLINE inline
#endif

#if defined(__GNUC__) && defined(__x86_64__)
#define CUEKIT_MULTIVERSION 1
#if defined(__clang__)
#define CUEKIT_AVX512_TARGET "avx512f,avx512bw,avx512dq,avx512vl"
#else
#define CUEKIT_AVX512_TARGET "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"
#endif
#else
#define CUEKIT_MULTIVERSION 0
#endif

namespace cuekit::cpu {

enum class InstructionSet : int { baseline, avx2, avx512 };

inline InstructionSet best_instruction_set() {
#if CUEKIT_MULTIVERSION
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return InstructionSet::avx512;
  if (__builtin_cpu_supports("avx2")) return InstructionSet::avx2;
#endif
  return InstructionSet::baseline;
}

// What dispatch() uses from now on; the tests switch it to reach the other versions too.
inline std::atomic<InstructionSet> instruction_set{best_instruction_set()};

#if CUEKIT_MULTIVERSION
template <class Kernel, class... Args>
__attribute__((target("avx2"))) void run_avx2(Args... args) {
  Kernel::run(args...);
}
template <class Kernel, class... Args>
__attribute__((target(CUEKIT_AVX512_TARGET))) void run_avx512(Args... args) {
  Kernel::run(args...);
}
#endif

template <class Kernel, class... Args>
void dispatch(Args... args) {
#if CUEKIT_MULTIVERSION
  switch (instruction_set.load(std::memory_order_relaxed)) {
    case InstructionSet::avx512:
      return run_avx512<Kernel, Args...>(args...);
    case InstructionSet::avx2:
      return run_avx2<Kernel, Args...>(args...);
    case InstructionSet::baseline:
      break;
  }
#endif
  Kernel::run(args...);
}

}  // namespace cuekit::cpu
