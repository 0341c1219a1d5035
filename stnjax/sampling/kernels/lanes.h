// Numbers side by side, and loops over channels by as many as registers hold.

#ifndef STNJAX_SAMPLING_KERNELS_LANES_H_
#define STNJAX_SAMPLING_KERNELS_LANES_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "places.h"

#if defined(__has_builtin) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#if __has_builtin(__builtin_shufflevector)
#define STNJAX_SHUFFLES
#endif
#endif

namespace stnjax {

// Bytes as numbers side by side. Compilers turn each into a number by itself,
// unless they are told how to do it at once.
template <typename T, int kWidth>
INLINE auto widen(const uint8_t* bytes) {
  typedef T Numbers __attribute__((vector_size(kWidth * sizeof(T))));
#ifdef STNJAX_SHUFFLES
  if constexpr (kWidth >= 4) {
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    typedef uint16_t Shorts __attribute__((vector_size(16)));
    typedef int32_t Words __attribute__((vector_size(16)));
    typedef T Four __attribute__((vector_size(4 * sizeof(T))));
    Bytes all = {};
    std::memcpy(&all, bytes, kWidth);
    const auto shorts = reinterpret_cast<Shorts>(__builtin_shufflevector(
        all, Bytes{}, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    const auto low = reinterpret_cast<Words>(__builtin_shufflevector(
        shorts, Shorts{}, 0, 8, 1, 9, 2, 10, 3, 11));
    const Four first = __builtin_convertvector(low, Four);
    if constexpr (kWidth == 4) {
      return first;
    } else {
      const auto high = reinterpret_cast<Words>(__builtin_shufflevector(
          shorts, Shorts{}, 4, 12, 5, 13, 6, 14, 7, 15));
      const Four second = __builtin_convertvector(high, Four);
      return __builtin_shufflevector(first, second, 0, 1, 2, 3, 4, 5, 6, 7);
    }
  } else
#endif
  {
    Numbers numbers;
    for (int k = 0; k < kWidth; ++k) numbers[k] = bytes[k];
    return numbers;
  }
}

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

  // Of numbers, or of bytes that become numbers.
  template <typename Number>
  INLINE void load(const Number* numbers) {
    if constexpr (std::is_same_v<Number, T>) {
      const auto* vectors = reinterpret_cast<const Vector*>(numbers);
      for (int v = 0; v < kCount; ++v) of[v] = vectors[v];
    } else {
      for (int v = 0; v < kCount; ++v) {
        of[v] = widen<T, kWidth>(numbers + v * kWidth);
      }
    }
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
