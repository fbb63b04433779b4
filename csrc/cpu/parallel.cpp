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

// Waits for something to happen soon, some tens of microseconds at most. The jobs of a call follow
// one another closely, and many take less time than waking a thread that sleeps.
template <class Condition>
void wait_briefly(const Condition& happened) {
  for (int looks = 0; looks < 1000 && !happened(); ++looks) {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ __volatile__("yield");
#endif
  }
}

struct Job {
  Task task;
  void* context;
  std::int64_t count;
  std::atomic<std::int64_t> next{0};
  std::mutex error_mutex{};
  std::exception_ptr error{};

  void drain() {
    const DefaultFloatState state;
    for (std::int64_t i; (i = next.fetch_add(1)) < count;) {
      try {
        task(context, i);
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
  // False when another caller holds the pool.
  bool try_run(Job& job, int helpers) {
    const std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner) return false;
    start_workers(helpers);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      seats_ = std::min(helpers, workers_);
    }
    wake_.notify_all();
    job.drain();
    wait_briefly([this] { return running_ == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    seats_ = 0;  // who has not come by now is not needed any more
    done_.wait(lock, [this] { return running_ == 0; });
    job_ = nullptr;
    return true;
  }

 private:
  void start_workers(int wanted) {
    while (workers_ < wanted) {
      try {
        std::thread([this] { work(); }).detach();
      } catch (const std::system_error&) {
        return;  // no more threads to be had: go on with those that are there
      }
      ++workers_;
    }
  }

  [[noreturn]] void work() {
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    for (;;) {
      wait_briefly([this] { return seats_ > 0; });
      lock.lock();
      wake_.wait(lock, [this] { return seats_ > 0; });
      --seats_;
      ++running_;
      Job* job = job_;
      lock.unlock();
      job->drain();
      lock.lock();
      if (--running_ == 0) done_.notify_all();
      lock.unlock();
    }
  }

  std::mutex owner_;  // held by the caller whose job runs; also guards workers_
  int workers_ = 0;
  std::mutex mutex_;  // guards all below; who waits briefly reads the numbers without it
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  std::atomic<int> seats_{0};
  std::atomic<int> running_{0};
};

// Never destroyed: its threads wait in it until the process ends.
Pool* pool = new Pool;

#if !defined(_WIN32)
// The threads do not exist in a forked child, and a lock may be held there for ever.
const int fork_hook = pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif

}  // namespace

void run_tasks(std::int64_t count, int threads, Task task, void* context) {
  Job job{task, context, count};
  const int helpers = static_cast<int>(std::min<std::int64_t>(threads, count)) - 1;
  if (helpers < 1 || !pool->try_run(job, helpers)) job.drain();
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace cuekit::cpu
