// A pool of threads. The threads that work on a job take the numbers of its tasks from one atomic
// counter until none is left. The caller works too.
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include "float_state.h"
#include "interrupt.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <emmintrin.h>
#endif

namespace cuekit::cpu {
namespace {

// Spins until the condition holds, but for some tens of microseconds at most. The jobs of one call
// follow one another closely, and many are shorter than the time to wake a sleeping thread.
template <class Condition>
void spin_briefly(const Condition& holds) {
  for (int attempt = 0; attempt < 1000 && !holds(); ++attempt) {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ __volatile__("yield");
#endif
  }
}

struct Job {
  Task task;
  void* body;
  std::int64_t count;
  InterruptibleCall* call;
  std::atomic<std::int64_t> next{0};  // the first task that no thread has taken
  std::mutex error_mutex{};
  std::exception_ptr error{};

  // Runs tasks until none is left. Every thread of the job calls it.
  void drain() {
    const DefaultFloatState state;
    const WorkForCall working(call);
    for (std::int64_t index; (index = next.fetch_add(1)) < count;) {
      try {
        if (index > 0) poll();
        task(body, index);
      } catch (...) {
        stop(std::current_exception());
      }
    }
  }

  void stop(std::exception_ptr reason) {
    const std::lock_guard<std::mutex> lock(error_mutex);
    if (!error) error = std::move(reason);
    next.store(count);
  }
};

class Pool {
 public:
  // Runs the job on the caller's thread and at most `helpers` workers. Returns false, with nothing
  // run, if another caller holds the pool.
  bool try_run(Job& job, int helpers) {
    if (busy_.test_and_set(std::memory_order_acquire)) return false;
    const Release release{busy_};
    start_workers(helpers);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      wanted_ = std::min(helpers, workers_);
    }
    wake_.notify_all();
    job.drain();
    spin_briefly([this] { return working_ == 0; });
    if (!wait_for_workers(job))
      job.stop(std::make_exception_ptr(
          std::runtime_error("a signal handler forked while a kernel was running")));
    return true;
  }

 private:
  struct Release {
    std::atomic_flag& flag;
    ~Release() { flag.clear(std::memory_order_release); }
  };

  // Returns false in a child that was forked meanwhile, where the workers do not exist.
  bool wait_for_workers(Job& job);

  void start_workers(int count) {
    // Not a constant: the cores that a process may use can change.
    if (workers_ < count)
      count =
          std::min(count, std::max(8, static_cast<int>(std::thread::hardware_concurrency())) - 1);
    while (workers_ < count) {
      try {
        std::thread([this] { work(); }).detach();
      } catch (const std::system_error&) {
        return;  // the system gives no more threads: continue with those that exist
      }
      ++workers_;
    }
  }

  [[noreturn]] void work() {
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    for (;;) {
      spin_briefly([this] { return wanted_ > 0; });
      lock.lock();
      wake_.wait(lock, [this] { return wanted_ > 0; });
      --wanted_;
      ++working_;
      Job* job = job_;
      lock.unlock();
      job->drain();
      lock.lock();
      if (--working_ == 0) done_.notify_all();
      lock.unlock();
    }
  }

  // Set while a job runs; also guards workers_. No mutex, because the caller's own thread tries it
  // a second time if polling calls a kernel.
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  int workers_ = 0;
  std::mutex mutex_;  // guards all below; spin_briefly reads the two counters without it
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  std::atomic<int> wanted_{0};   // workers that may still join the job
  std::atomic<int> working_{0};  // workers that are in the job
};

// Never destroyed, because its threads use it until the process ends.
Pool* pool = new Pool;

#if !defined(_WIN32)
// A forked child has none of the threads, and a mutex may be locked there for ever: it gets a new
// pool.
const int fork_hook = pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif

// Polling may run a signal handler, and this may fork.
bool Pool::wait_for_workers(Job& job) {
  if (pool != this) return false;
  std::unique_lock<std::mutex> lock(mutex_);
  wanted_ = 0;  // no task is left for workers that have not joined
  while (!done_.wait_for(lock, std::chrono::milliseconds(20), [this] { return working_ == 0; })) {
    lock.unlock();
    if (interrupted()) job.stop(std::make_exception_ptr(Interrupted()));
    if (pool != this) return false;
    lock.lock();
  }
  job_ = nullptr;
  return true;
}

}  // namespace

void run_tasks(std::int64_t count, int threads, Task task, void* body) {
  Job job{task, body, count, current_call()};
  const int helpers = static_cast<int>(std::min<std::int64_t>(threads, count)) - 1;
  if (helpers < 1 || !pool->try_run(job, helpers)) job.drain();
  if (!job.error) return;
  if (interrupted()) throw Interrupted();  // before any other error: the caller's own is set
  std::rethrow_exception(job.error);
}

}  // namespace cuekit::cpu
