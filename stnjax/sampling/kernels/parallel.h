// Loops on the threads of a pool, with results that do not depend on it.

#ifndef STNJAX_SAMPLING_KERNELS_PARALLEL_H_
#define STNJAX_SAMPLING_KERNELS_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "places.h"

namespace stnjax {

constexpr int64_t kGrain = 1 << 14;  // numbers that are worth a task

// Calls `visit(first, last)` on ranges that cover [0, count), on the pool's
// threads and this one, which never waits for a task that has not begun. A pool
// has `num_threads()` and `Schedule(task)`.
template <typename Pool, typename F>
void in_parallel(Pool& pool, int64_t count, int64_t grain, const F& visit) {
  const int64_t chunks = (count + grain - 1) / grain;
  const int64_t helpers =
      std::min<int64_t>(pool.num_threads(), chunks) - 1;
  if (helpers <= 0) {
    if (count > 0) visit(0, count);
    return;
  }
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;
  };
  const auto shared = std::make_shared<Shared>();
  // Those that come when nothing is left must not touch `visit` any more.
  const auto work = [shared, chunks, grain, count, &visit] {
    int64_t chunk;
    while ((chunk = shared->next.fetch_add(1)) < chunks) {
      visit(chunk * grain, std::min(count, (chunk + 1) * grain));
      if (shared->done.fetch_add(1) + 1 == chunks) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->finished.notify_one();
      }
    }
  };
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work] { work(); });
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->finished.wait(lock, [&] { return shared->done.load() == chunks; });
}

// Calls `visit(image, first, last)` on ranges of points of one image each.
template <typename Pool, typename F>
void over_points(Pool& pool, const Sizes& s, const F& visit) {
  const int64_t channels = std::max<int64_t>(1, s.channels);
  const int64_t grain = std::max<int64_t>(kBlock, kGrain / channels);
  in_parallel(pool, s.batch * s.points, grain, [&](int64_t at, int64_t last) {
    while (at < last) {
      const int64_t image = at / s.points;
      const int64_t until = std::min(last, (image + 1) * s.points);
      visit(image, at, until);
      at = until;
    }
  });
}

// Calls `visit(image)`, each image on one thread.
template <typename Pool, typename F>
void over_images(Pool& pool, const Sizes& s, const F& visit) {
  const int64_t each = std::max<int64_t>(1, s.points * s.channels);
  const int64_t grain = std::max<int64_t>(1, kGrain / each);
  in_parallel(pool, s.batch, grain, [&](int64_t first, int64_t last) {
    for (int64_t image = first; image < last; ++image) visit(image);
  });
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_PARALLEL_H_
