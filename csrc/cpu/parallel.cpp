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

namespace cuekit::cpu {
namespace {

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
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return seats_ > 0; });
      --seats_;
      ++running_;
      Job* job = job_;
      lock.unlock();
      job->drain();
      lock.lock();
      if (--running_ == 0) done_.notify_all();
    }
  }

  std::mutex owner_;  // held by the caller whose job runs; also guards workers_
  int workers_ = 0;
  std::mutex mutex_;  // guards all below
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int seats_ = 0;
  int running_ = 0;
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
