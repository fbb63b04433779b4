// Lets the caller of a kernel stop it: long loops call poll(), which throws if the caller wants so.
//
// The caller's thread has the object of the call in a thread-local variable, and passes it on to
// the workers of the pool (parallel.h). So any loop can poll, and no function needs an argument for
// it. The caller's thread asks whether to stop; workers only look at the answer.
//
// parallel_for polls between tasks. Tasks that may take longer than some tens of milliseconds poll
// themselves.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace cuekit::cpu {

// What poll() throws. No std::exception: there is nothing to report but what the caller knows.
struct Interrupted {};

// A call of a kernel from the thread that creates this object, until it is destroyed. `wants_stop`
// is called in that thread alone, from time to time, and tells whether to stop the kernel. Calls
// can be nested: `wants_stop` may call kernels.
class InterruptibleCall {
 public:
  explicit InterruptibleCall(bool (*wants_stop)());
  InterruptibleCall(const InterruptibleCall&) = delete;
  InterruptibleCall& operator=(const InterruptibleCall&) = delete;
  ~InterruptibleCall();

  bool stopped();

 private:
  using Clock = std::chrono::steady_clock;

  bool (*const wants_stop_)();
  InterruptibleCall* const outer_;
  const std::thread::id caller_ = std::this_thread::get_id();
  Clock::time_point next_;  // when to ask again
  std::atomic<bool> stopped_{false};
};

// The call that this thread works for. Null: none that can be stopped.
InterruptibleCall* current_call();

// While it exists, a worker works for another thread's call.
class WorkForCall {
 public:
  explicit WorkForCall(InterruptibleCall* call);
  WorkForCall(const WorkForCall&) = delete;
  WorkForCall& operator=(const WorkForCall&) = delete;
  ~WorkForCall();

 private:
  InterruptibleCall* const before_;
};

// Whether the call that this thread works for is to stop.
bool interrupted();

// The same as an exception. It takes some 30 ns, in the caller's thread at most every 50 ms more.
inline void poll() {
  if (interrupted()) throw Interrupted();
}

// A loop over many short steps: step(i) for i = begin .. end - 1, and a poll after every 2^16. The
// inner loop does not poll, so it is as fast as a plain one.
template <class Step>
inline void polling_loop(std::int64_t begin, std::int64_t end, Step&& step) {
  constexpr std::int64_t period = std::int64_t{1} << 16;
  while (end - begin > period) {
    const std::int64_t stop = begin + period;
    for (; begin < stop; ++begin) step(begin);
    poll();
  }
  for (; begin < end; ++begin) step(begin);
}

// The same where the loop is not ours, such as in a sort: `i` is the number of the step.
inline void poll_sometimes(std::int64_t i) {
  constexpr std::int64_t period = std::int64_t{1} << 16;
  if (i % period == period - 1) poll();
}

// The same where steps differ in length.
class PollAfterWork {
 public:
  // `work` is the number of short operations since the last time.
  void operator()(std::int64_t work) {
    done_ += work;
    if (done_ < std::int64_t{1} << 16) return;
    done_ = 0;
    poll();
  }

 private:
  std::int64_t done_ = 0;
};

}  // namespace cuekit::cpu
