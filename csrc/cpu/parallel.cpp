// A pool of threads. The threads that work on a job take the numbers of its tasks from one atomic
// counter until none is left. The caller works too.
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "float_state.h"

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
  std::atomic<std::int64_t> next{0};  // the first task that no thread has taken
  std::mutex error_mutex{};
  std::exception_ptr error{};

  // Runs tasks until none is left. Every thread of the job calls it.
  void drain() {
    const DefaultFloatState state;
    for (std::int64_t index; (index = next.fetch_add(1)) < count;) {
      try {
        task(body, index);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
        next.store(count);
      }
    }
  }
};

class Pool {
 public:
  // Runs the job on the caller's thread and at most `helpers` workers. Returns false, with nothing
  // run, if another caller holds the pool.
  bool try_run(Job& job, int helpers) {
    const std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner) return false;
    start_workers(helpers);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      wanted_ = std::min(helpers, workers_);
    }
    wake_.notify_all();
    job.drain();
    spin_briefly([this] { return working_ == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_ = 0;  // no task is left for workers that have not joined
    done_.wait(lock, [this] { return working_ == 0; });
    job_ = nullptr;
    return true;
  }

 private:
  void start_workers(int count) {
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

  std::mutex owner_;  // held by the caller whose job runs; also guards workers_
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

}  // namespace

void run_tasks(std::int64_t count, int threads, Task task, void* body) {
  Job job{task, body, count};
  const int helpers = static_cast<int>(std::min<std::int64_t>(threads, count)) - 1;
  if (helpers < 1 || !pool->try_run(job, helpers)) job.drain();
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace cuekit::cpu
