// Numbers side by side, and loops over channels by as many as registers hold.

#ifndef STNJAX_SAMPLING_KERNELS_LANES_H_
#define STNJAX_SAMPLING_KERNELS_LANES_H_

#include <cstdint>

#include "places.h"

namespace stnjax {

// Numbers side by side, in the registers of a processor.
template <typename T, int kSize>
struct Lanes {
  static constexpr int kNumbers = kSize;
  static constexpr int kWidth =
      kNumbers == 1 ? 1 : kNumbers % 8 || sizeof(T) > 4 ? 4 : 8;
  static constexpr int kCount = kNumbers / kWidth;
  typedef T Vector __attribute__((vector_size(kWidth * sizeof(T)),
                                  aligned(alignof(T)), may_alias));
  Vector of[kCount];

  INLINE void load(const T* numbers) {
    const auto* vectors = reinterpret_cast<const Vector*>(numbers);
    for (int v = 0; v < kCount; ++v) of[v] = vectors[v];
  }

  INLINE void store(T* numbers) const {
    auto* vectors = reinterpret_cast<Vector*>(numbers);
    for (int v = 0; v < kCount; ++v) vectors[v] = of[v];
  }

  INLINE void set(T weight, const Lanes& other) {
    for (int v = 0; v < kCount; ++v) of[v] = weight * other.of[v];
  }

  INLINE void add(T weight, const Lanes& other) {
    for (int v = 0; v < kCount; ++v) of[v] += weight * other.of[v];
  }

  INLINE void add(const Lanes& first, const Lanes& second) {
    for (int v = 0; v < kCount; ++v) of[v] += first.of[v] * second.of[v];
  }

  INLINE T sum() const {
    Vector total = of[0];
    for (int v = 1; v < kCount; ++v) total += of[v];
    T pairs[4];
    for (int k = 0; k < 4; ++k) {
      pairs[k] = kWidth == 8 ? total[k] + total[k + kWidth - 4] : total[k];
    }
    return (pairs[0] + pairs[2]) + (pairs[1] + pairs[3]);
  }
};

// The products of weights of a row's taps with the numbers of each channel.
template <int kChannels, typename T>
INLINE Lanes<T, 4 * kChannels> outer(const T* weights, const T* numbers) {
  T products[4 * kChannels];
  for (int j = 0; j < 4 * kChannels; ++j) {
    products[j] = weights[j / kChannels] * numbers[j % kChannels];
  }
  Lanes<T, 4 * kChannels> lanes;
  lanes.load(products);
  return lanes;
}

// Calls `visit(c, lanes)` for the channels from c on, one for each lane.
template <typename T, typename F>
INLINE void over_channels(int64_t channels, const F& visit) {
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8) visit(c, Lanes<T, 8>{});
  if (c + 4 <= channels) {
    visit(c, Lanes<T, 4>{});
    c += 4;
  }
  for (; c < channels; ++c) visit(c, Lanes<T, 1>{});
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_LANES_H_
