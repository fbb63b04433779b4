// Function multiversioning: each inner loop is compiled for the baseline instruction set and for
// AVX2, some for AVX-512 too, and dispatch() picks one when it is called. And what inner loops need
// besides: prefetching, alignment and non-temporal stores.
//
// The loops are plain C++ that the compiler vectorises. Contraction into FMA is off, so all
// versions give the same bits. A loop is written as
//   struct Kernel { static CUEKIT_INLINE void run(...); };
// and called as dispatch<Kernel>(...). dispatch() inlines run() into one function for each
// instruction set; inlining is what makes the compiler use that instruction set.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__) || defined(_M_X64)
#define CUEKIT_SSE2 1
#include <emmintrin.h>
#else
#define CUEKIT_SSE2 0
#endif
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

#if defined(__GNUC__)
#define CUEKIT_INLINE inline __attribute__((always_inline))
#else
#define CUEKIT_INLINE inline
#endif

// Before a loop over the few vectors of a ClassVector: unrolls it. Otherwise GCC may keep the
// vectors in memory, and copy them in halves.
#if defined(__clang__)
#define CUEKIT_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define CUEKIT_UNROLL _Pragma("GCC unroll 8")
#else
#define CUEKIT_UNROLL
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

// The best one that this processor has.
inline InstructionSet best_instruction_set() {
#if CUEKIT_MULTIVERSION
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return InstructionSet::avx512;
  if (__builtin_cpu_supports("avx2")) return InstructionSet::avx2;
#endif
  return InstructionSet::baseline;
}

// The one that dispatch() uses. CUEKIT_INSTRUCTION_SET and tests choose narrower ones.
inline std::atomic<InstructionSet> instruction_set{best_instruction_set()};

#if CUEKIT_MULTIVERSION
// Not inlined, like the others. Virtual machines often have no AVX2, so it is not compiled for
// size.
template <class Kernel, class... Args>
__attribute__((noinline)) void run_baseline(Args... args) {
  Kernel::run(args...);
}
template <class Kernel, class... Args>
__attribute__((target("avx2"))) void run_avx2(Args... args) {
  Kernel::run(args...);
}
template <class Kernel, class... Args>
__attribute__((target(CUEKIT_AVX512_TARGET))) void run_avx512(Args... args) {
  Kernel::run(args...);
}
#endif

// Runs one of two versions of a kernel, each written for the width of an instruction set's vector
// registers: 16 bytes (baseline) or 32 (AVX2).
template <class Baseline, class Avx2, class... Args>
void dispatch_width(Args... args) {
#if CUEKIT_MULTIVERSION
  if (instruction_set.load(std::memory_order_relaxed) != InstructionSet::baseline)
    return run_avx2<Avx2, Args...>(args...);
  run_baseline<Baseline, Args...>(args...);
#else
  Baseline::run(args...);
#endif
}

// The same, with a third version for registers of 64 bytes (AVX-512).
template <class Baseline, class Avx2, class Avx512, class... Args>
void dispatch_width_avx512(Args... args) {
#if CUEKIT_MULTIVERSION
  if (instruction_set.load(std::memory_order_relaxed) == InstructionSet::avx512)
    return run_avx512<Avx512, Args...>(args...);
#endif
  dispatch_width<Baseline, Avx2, Args...>(args...);
}

// Runs the kernel as it was compiled for the current instruction set: the baseline or AVX2.
template <class Kernel, class... Args>
void dispatch(Args... args) {
  dispatch_width<Kernel, Kernel, Args...>(args...);
}

// The same, with a third version for AVX-512.
template <class Kernel, class... Args>
void dispatch_avx512(Args... args) {
  dispatch_width_avx512<Kernel, Kernel, Kernel, Args...>(args...);
}

// Prefetches `count` elements into L1. The address need not be valid: a prefetch never faults.
template <int locality = 3, class T>
CUEKIT_INLINE void prefetch(const T* address, std::int64_t count) {
#if defined(__GNUC__)
  const std::int64_t size = count * static_cast<std::int64_t>(sizeof(T));
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  for (std::int64_t i = 0; i < size; i += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(begin + static_cast<std::uintptr_t>(i)), 0,
                       locality);
#else
  (void)address, (void)count;
#endif
}

// Prefetches into L2 only. L1 tracks only some dozen outstanding misses, so prefetching many lines
// into it that are out of cache and in no order gains little.
template <class T>
CUEKIT_INLINE void prefetch_far(const T* address, std::int64_t count) {
  prefetch<2>(address, count);
}

// Prefetches data that is read once, with the non-temporal hint: it evicts nothing from L2 and L3.
template <class T>
CUEKIT_INLINE void prefetch_once(const T* address, std::int64_t count) {
  prefetch<0>(address, count);
}

// An optimisation barrier: returns the address, but hides from the compiler how it was computed.
// The compiler then keeps it in one register, instead of computing it anew for each neighbouring
// element.
template <class T>
CUEKIT_INLINE T* computed_once(T* address) {
#if defined(__GNUC__)
  __asm__("" : "+r"(address));
#endif
  return address;
}

// The index of the lowest bit that is 1 in a word that is not 0.
CUEKIT_INLINE int lowest_bit(std::uint64_t word) {
#if defined(_MSC_VER) && !defined(__clang__)
  unsigned long bit;
  _BitScanForward64(&bit, word);
  return static_cast<int>(bit);
#else
  return __builtin_ctzll(word);
#endif
}

// The number of elements before the next start of a cache line, at most `count`. A loop that writes
// wide vectors is split there: maps of odd sizes do not start at a cache line, and without the
// split each store would touch two lines.
template <class T>
CUEKIT_INLINE std::int64_t until_aligned(const T* target, std::int64_t count) {
  const auto past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(target) % 64);
  return std::min(count, (64 - past) % 64 / static_cast<std::int64_t>(sizeof(T)));
}

// Outputs of at least this many bytes are streamed: written with non-temporal stores, which bypass
// the caches. A normal store first reads its line into the cache and evicts another one; and the
// first lines of so large an output are evicted again before anything reads them. Measured with
// 32 MB of L3, writing an output and then reading it once is faster with streaming from 12 MB on,
// and slower below 8 MB.
constexpr std::int64_t streaming_size = std::int64_t{12} << 20;

// A non-temporal store of 16 bytes, the baseline's vector, to an address that is a multiple of 16.
// The processor combines four of them into one write of a cache line.
CUEKIT_INLINE void stream_16(const void* source, void* target) {
#if CUEKIT_SSE2
  _mm_stream_si128(static_cast<__m128i*>(target),
                   _mm_loadu_si128(static_cast<const __m128i*>(source)));
#else
  std::memcpy(target, source, 16);
#endif
}

// Non-temporal stores are not ordered with other stores: call this before another thread may learn
// that the data is complete.
inline void finish_streaming() {
#if CUEKIT_SSE2
  _mm_sfence();
#endif
}

}  // namespace cuekit::cpu
