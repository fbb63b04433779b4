// Sets the floating-point state of the thread's processor while an object of these classes exists.
//
// Frameworks may set a thread to flush denormals to zero, and a thread of the pool keeps what was
// set in the thread that started it. Results must depend on neither. Kernels therefore run in the
// default state, or, where they say so, with denormals flushed to zero because arithmetic with
// denormals is slow.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

#include <cstdint>

namespace cuekit::cpu {

class FloatState {
 public:
  FloatState(const FloatState&) = delete;
  FloatState& operator=(const FloatState&) = delete;

 protected:
  explicit FloatState(bool flush) : saved_(get()) { set(flush ? flush_state : default_state); }
  ~FloatState() { set(saved_); }

 private:
#if defined(__x86_64__) || defined(_M_X64)
  using State = unsigned;
  static constexpr State default_state = 0x1f80;  // round to nearest, keep denormals, no traps
  static constexpr State flush_state = 0x9fc0;    // the same, but read and write denormals as 0
  static State get() { return _mm_getcsr(); }
  static void set(State state) { _mm_setcsr(state); }
#elif defined(__aarch64__) && defined(__GNUC__)
  using State = std::uint64_t;
  static constexpr State default_state = 0;
  static constexpr State flush_state = State{1} << 24;
  static State get() {
    State state;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(state));
    return state;
  }
  static void set(State state) { __asm__ __volatile__("msr fpcr, %0" : : "r"(state)); }
#else
  using State = int;
  static constexpr State default_state = 0, flush_state = 0;
  static State get() { return 0; }
  static void set(State) {}
#endif
  State saved_;
};

// Round to nearest, denormals kept.
class DefaultFloatState : FloatState {
 public:
  DefaultFloatState() : FloatState(false) {}
};

// Round to nearest, denormals read and written as 0.
class DenormalsFlushed : FloatState {
 public:
  DenormalsFlushed() : FloatState(true) {}
};

}  // namespace cuekit::cpu
