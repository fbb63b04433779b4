// A loop over independent tasks on a small pool of threads.
//
// Not OpenMP: its runtime hangs in forked DataLoader workers and clashes with torch's own. The pool
// starts no thread before it is needed, and a forked child starts again with a pool of its own.
// Tasks write to places of their own, so the bits of a result never depend on `threads`. While one
// caller holds the pool, others run their tasks themselves. Tasks run in the processor's default
// floating-point state, whatever the caller's thread has set.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace cuekit::cpu {

using Task = void (*)(void* context, std::int64_t index);

// Runs task(context, 0 .. count - 1), each once, on at most `threads` threads, the caller's among
// them. The first exception stops the loop and is rethrown here.
void run_tasks(std::int64_t count, int threads, Task task, void* context);

template <class Body>
void parallel_for(std::int64_t count, int threads, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  run_tasks(
      count, threads,
      [](void* context, std::int64_t index) { (*static_cast<Plain*>(context))(index); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

// Where the work on one image can itself be divided: the threads go to whole images when there are
// enough of them, and into the images one after the other when there are not.
template <class Body>
void for_each_image(std::int64_t batch, int threads, Body&& body) {
  const bool enough = batch >= threads;
  const int inner = enough ? 1 : threads;
  parallel_for(batch, enough ? threads : 1, [&](std::int64_t b) { body(b, inner); });
}

}  // namespace cuekit::cpu
