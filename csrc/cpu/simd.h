// Function multiversioning: a kernel's inner loop compiled for the baseline, AVX2 and AVX-512.
//
// The loops are plain C++ for the compiler to vectorise. Contraction into FMA is off, so all
// versions give the same bits. `struct Kernel { static CUEKIT_INLINE void run(...); };` is called
// as `dispatch<Kernel>(...)`: being inlined into a function of that target is what compiles it for
// the target.
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

// Of kernels that are written for vectors of 4, 8 or 16 float32 values, the one for as many as the
// target's registers hold.
template <class Four, class Eight, class Sixteen, class... Args>
void dispatch_width(Args... args) {
#if CUEKIT_MULTIVERSION
  switch (instruction_set.load(std::memory_order_relaxed)) {
    case InstructionSet::avx512:
      return run_avx512<Sixteen, Args...>(args...);
    case InstructionSet::avx2:
      return run_avx2<Eight, Args...>(args...);
    case InstructionSet::baseline:
      break;
  }
#endif
  Four::run(args...);
}

template <class Kernel, class... Args>
void dispatch(Args... args) {
  dispatch_width<Kernel, Kernel, Kernel, Args...>(args...);
}

// Asks for `count` elements to be brought into the cache. Any address may be asked for.
template <int locality = 3, class T>
CUEKIT_INLINE void prefetch(const T* from, std::int64_t count) {
#if defined(__GNUC__)
  const std::int64_t size = count * static_cast<std::int64_t>(sizeof(T));
  const auto begin = reinterpret_cast<std::uintptr_t>(from);
  for (std::int64_t i = 0; i < size; i += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(begin + static_cast<std::uintptr_t>(i)), 0,
                       locality);
#else
  (void)from, (void)count;
#endif
}

// The same, into the second cache only. The first one waits for some dozen lines at a time and no
// more; so where many lines are far and in no order, asking it for them early gains little.
template <class T>
CUEKIT_INLINE void prefetch_far(const T* from, std::int64_t count) {
  prefetch<2>(from, count);
}

// The same for what is read once: it pushes nothing out of the outer caches.
template <class T>
CUEKIT_INLINE void prefetch_once(const T* from, std::int64_t count) {
  prefetch<0>(from, count);
}

// The same address, of which the compiler forgets how it was computed: it likes to compute the
// addresses of neighbouring elements each from the start.
template <class T>
CUEKIT_INLINE T* computed_once(T* address) {
#if defined(__GNUC__)
  __asm__("" : "+r"(address));
#endif
  return address;
}

// How many of the first `count` elements lie before the next cache line begins. A loop that writes
// wide vectors is cut there, or each of its stores touches two lines: maps of odd sizes do not
// begin where lines begin.
template <class T>
CUEKIT_INLINE std::int64_t until_aligned(const T* to, std::int64_t count) {
  const auto past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(to) % 64);
  return std::min(count, (64 - past) % 64 / static_cast<std::int64_t>(sizeof(T)));
}

// Outputs of this many bytes are streamed: written past the caches. A plain store first brings its
// line in and casts another out, and of so large an output the first lines are gone anyway by the
// time they are read. Measured with 32 MB of L3 cache, writing and then reading it once is faster
// this way from 12 MB on and slower below 8 MB.
constexpr std::int64_t streaming_size = std::int64_t{12} << 20;

// Writes 16 bytes past the caches, to a multiple of 16: the baseline's vector. The processor
// gathers four such into one write of a line.
CUEKIT_INLINE void stream_16(const void* from, void* to) {
#if CUEKIT_SSE2
  _mm_stream_si128(static_cast<__m128i*>(to), _mm_loadu_si128(static_cast<const __m128i*>(from)));
#else
  std::memcpy(to, from, 16);
#endif
}

// Streamed writes are not ordered with others: call it before telling anybody that they are done.
inline void finish_streaming() {
#if CUEKIT_SSE2
  _mm_sfence();
#endif
}

}  // namespace cuekit::cpu
