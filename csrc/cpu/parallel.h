// parallel_for: a loop over independent tasks on a small pool of threads.
//
// Not OpenMP, because its runtime hangs in forked DataLoader workers and clashes with the OpenMP
// runtime of torch. The pool starts threads when they are first needed. A forked child starts with
// an empty pool.
//
// Each task writes only to its own memory, so the bits of a result do not depend on `threads`. The
// pool serves one caller at a time: a second, concurrent caller runs its tasks in its own thread.
// It never has more threads than there are cores, or 8: a larger `threads` means that many.
// Tasks run in the processor's default floating-point state, whatever the caller's thread has set.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace cuekit::cpu {

using Task = void (*)(void* body, std::int64_t index);

// Runs task(body, index) once for each index in [0, count), on at most `threads` threads, one of
// which is the caller's. The first exception stops the loop and is rethrown in the caller's thread.
// Polls between tasks (interrupt.h), and while the caller waits for other threads.
void run_tasks(std::int64_t count, int threads, Task task, void* body);

// The same for body(index).
template <class Body>
void parallel_for(std::int64_t count, int threads, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  run_tasks(
      count, threads, [](void* plain, std::int64_t index) { (*static_cast<Plain*>(plain))(index); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

// Calls body(image, threads_within_image) for each image of a batch, for work that can also be
// divided within an image. A batch of at least `threads` images runs one image per thread; a
// smaller batch runs one image after the other, each on all threads.
template <class Body>
void for_each_image(std::int64_t batch, int threads, Body&& body) {
  const bool image_per_thread = batch >= threads;
  const int inner_threads = image_per_thread ? 1 : threads;
  parallel_for(batch, image_per_thread ? threads : 1,
               [&](std::int64_t b) { body(b, inner_threads); });
}

}  // namespace cuekit::cpu
