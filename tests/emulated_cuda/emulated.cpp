// Runs emulated kernels (see cuda_runtime.h): a scheduler that switches between the fibers of a
// block. Launches of several system threads run one after the other.
#include <cuda_runtime.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {
namespace {

constexpr std::size_t stack_bytes = 128 * 1024;
constexpr unsigned warp_size = 32;

enum class State { ready, at_warp_barrier, at_block_barrier, ended };

// A fiber is started with setcontext once, and then runs a thread of one block after the other.
// Later switches are jumps between stacks: setcontext also sets the signal mask, a system call.
struct Fiber {
  ucontext_t start;
  jmp_buf resume_point;
  bool started = false;
  void* fake_stack = nullptr;  // of AddressSanitizer, while the fiber does not run
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  dim3 thread_index;
  State state = State::ended;
  unsigned exchanges = 0;  // so far; even ones use the first row of Warp::values
};

struct Warp {
  std::uint64_t values[2][warp_size];
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
jmp_buf scheduler;
Fiber* current = nullptr;
const std::function<void()>* body = nullptr;
std::exception_ptr failure;
std::mutex one_launch_at_a_time;
bool backwards = false;  // the order of threads and blocks
unsigned launches = 0;

#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
std::size_t scheduler_bytes = 0;
void* scheduler_fake = nullptr;
// The sanitizer must know of every switch of stacks, before it and after it.
void leave_to_fiber(const Fiber& fiber) {
  __sanitizer_start_switch_fiber(&scheduler_fake, fiber.stack.get(), stack_bytes);
}
void back_in_scheduler() { __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr); }
void leave_to_scheduler() {
  __sanitizer_start_switch_fiber(&current->fake_stack, scheduler_stack, scheduler_bytes);
}
void back_in_fiber() {
  __sanitizer_finish_switch_fiber(current->fake_stack, &scheduler_stack, &scheduler_bytes);
}
#else
void leave_to_fiber(const Fiber&) {}
void back_in_scheduler() {}
void leave_to_scheduler() {}
void back_in_fiber() {}
#endif

void yield() {
  leave_to_scheduler();
  if (_setjmp(current->resume_point) == 0) _longjmp(scheduler, 1);
  back_in_fiber();
}

// What a fiber runs. It never returns: at the end of a block's thread it yields.
void run_fiber() {
  back_in_fiber();
  for (;;) {
    try {
      (*body)();
    } catch (...) {
      failure = std::current_exception();
    }
    current->state = State::ended;
    yield();
  }
}

void resume(Fiber& fiber) {
  leave_to_fiber(fiber);
  if (_setjmp(scheduler) == 0) {
    if (fiber.started) _longjmp(fiber.resume_point, 1);
    fiber.started = true;
    setcontext(&fiber.start);
  }
  back_in_scheduler();
}

// Makes the fibers of a block or warp ready if all of them that have not ended are at its barrier.
// Returns whether any became ready.
bool release(std::size_t begin, std::size_t end, State barrier) {
  for (std::size_t t = begin; t < end; ++t)
    if (fibers[t]->state != barrier && fibers[t]->state != State::ended) return false;
  bool any = false;
  for (std::size_t t = begin; t < end; ++t) {
    if (fibers[t]->state != barrier) continue;
    fibers[t]->state = State::ready;
    any = true;
  }
  return any;
}

void run_block(std::size_t threads) {
  for (std::size_t t = 0; t < threads; ++t) {
    Fiber& fiber = *fibers[t];
    if (!fiber.started) {
      getcontext(&fiber.start);
      fiber.start.uc_stack.ss_sp = fiber.stack.get();
      fiber.start.uc_stack.ss_size = stack_bytes;
      fiber.start.uc_link = nullptr;
      makecontext(&fiber.start, run_fiber, 0);
      fiber.fake_stack = nullptr;
    }
    fiber.state = State::ready;
    fiber.exchanges = 0;
  }
  std::memset(warps.data(), 0, warps.size() * sizeof(Warp));
  for (;;) {
    bool ran = false, all_ended = true;
    for (std::size_t i = 0; i < threads; ++i) {
      Fiber& fiber = *fibers[backwards ? threads - 1 - i : i];
      if (fiber.state == State::ready) {
        current = &fiber;
        threadIdx = fiber.thread_index;
        resume(fiber);
        ran = true;
      }
      all_ended = all_ended && fiber.state == State::ended;
    }
    if (all_ended) return;
    bool released = release(0, threads, State::at_block_barrier);
    for (std::size_t begin = 0; begin < threads; begin += warp_size) {
      const std::size_t end = std::min(threads, begin + warp_size);
      released = release(begin, end, State::at_warp_barrier) || released;
    }
    if (ran || released) continue;
    // The fibers that are at the barrier cannot take part in another block.
    for (std::size_t t = 0; t < threads; ++t) fibers[t]->started = false;
    throw std::logic_error(
        "a kernel has a barrier that some threads of the block or warp do not reach");
  }
}

}  // namespace

void run(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024) throw std::logic_error("a block must have 1 to 1024 threads");
  while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
  warps.resize((threads + warp_size - 1) / warp_size);
  for (std::size_t t = 0; t < threads; ++t) {
    const auto index = static_cast<unsigned>(t);
    fibers[t]->thread_index =
        dim3(index % block.x, index / block.x % block.y, index / block.x / block.y);
  }
  // The parity of set bits is not periodic: a kernel that is launched every n-th time does not get
  // the same order every time.
  backwards = __builtin_parity(launches++);
  body = &kernel;
  failure = nullptr;
  blockDim = block;
  gridDim = grid;
  const std::size_t blocks = std::size_t{grid.x} * grid.y * grid.z;
  for (std::size_t i = 0; i < blocks; ++i) {
    const auto index = static_cast<unsigned>(backwards ? blocks - 1 - i : i);
    blockIdx = dim3(index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y);
    run_block(threads);
    if (failure) std::rethrow_exception(failure);
  }
}

void barrier(Scope scope) {
  current->state = scope == Scope::warp ? State::at_warp_barrier : State::at_block_barrier;
  yield();
}

// Exchanges use two rows in turn. A lane writes the other row at the next exchange, and cannot
// write this one again before all lanes have reached that exchange, and so have read this row.
const std::uint64_t* exchange(std::uint64_t value) {
  const dim3& t = current->thread_index;
  const dim3& size = blockDim;
  const std::size_t thread = (std::size_t{t.z} * size.y + t.y) * size.x + t.x;
  std::uint64_t* row = warps[thread / warp_size].values[current->exchanges++ % 2];
  row[thread % warp_size] = value;
  barrier(Scope::warp);
  return row;
}

}  // namespace emulated
