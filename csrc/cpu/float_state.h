// The processor's default floating-point state, for as long as an object of this class lives.
//
// Frameworks switch denormals off, per thread; the threads of the pool would keep whatever was set
// when they started. Results must depend on neither.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

#include <cstdint>

namespace cuekit::cpu {

class DefaultFloatState {
 public:
  DefaultFloatState() : saved_(get()) { set(default_state); }
  ~DefaultFloatState() { set(saved_); }
  DefaultFloatState(const DefaultFloatState&) = delete;
  DefaultFloatState& operator=(const DefaultFloatState&) = delete;

 private:
#if defined(__x86_64__) || defined(_M_X64)
  using State = unsigned;
  static constexpr State default_state = 0x1f80;  // round to nearest, denormals kept, no traps
  static State get() { return _mm_getcsr(); }
  static void set(State state) { _mm_setcsr(state); }
#elif defined(__aarch64__) && defined(__GNUC__)
  using State = std::uint64_t;
  static constexpr State default_state = 0;
  static State get() {
    State state;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(state));
    return state;
  }
  static void set(State state) { __asm__ __volatile__("msr fpcr, %0" : : "r"(state)); }
#else
  using State = int;
  static constexpr State default_state = 0;
  static State get() { return 0; }
  static void set(State) {}
#endif
  State saved_;
};

}  // namespace cuekit::cpu
