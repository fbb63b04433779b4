#include "interrupt.h"

#include <algorithm>

namespace cuekit::cpu {
namespace {

using namespace std::chrono_literals;

thread_local InterruptibleCall* current = nullptr;

constexpr std::chrono::nanoseconds shortest_pause = 50ms, longest_pause = 250ms;

}  // namespace

InterruptibleCall::InterruptibleCall(bool (*wants_stop)())
    : wants_stop_(wants_stop), outer_(current), next_(Clock::now() + shortest_pause) {
  current = this;
}

InterruptibleCall::~InterruptibleCall() { current = outer_; }

// To ask takes long if other threads hold what `wants_stop` has to lock. It then pauses longer, so
// that waiting does not slow the kernel down by more than a few per cent.
bool InterruptibleCall::stopped() {
  if (std::this_thread::get_id() != caller_ || stopped_) return stopped_;
  const Clock::time_point before = Clock::now();
  if (before < next_) return false;
  if (wants_stop_()) stopped_ = true;
  const Clock::time_point after = Clock::now();
  const std::chrono::nanoseconds took = after - before;
  next_ = after + std::clamp(50 * took, shortest_pause, longest_pause);
  return stopped_;
}

InterruptibleCall* current_call() { return current; }

WorkForCall::WorkForCall(InterruptibleCall* call) : before_(current) { current = call; }
WorkForCall::~WorkForCall() { current = before_; }

bool interrupted() { return current != nullptr && current->stopped(); }

}  // namespace cuekit::cpu
