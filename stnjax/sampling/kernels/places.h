// Where samples lie in an image: the taps of each, and their weights.
//
// Images are [batch, (D,) H, W, C], row-major; axis 0 is x, axis 1 is y, axis 2
// is z. A sample reads kTaps pixels along each axis, from its first tap on.

#ifndef STNJAX_SAMPLING_KERNELS_PLACES_H_
#define STNJAX_SAMPLING_KERNELS_PLACES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#define INLINE inline __attribute__((always_inline))
#define INLINED __attribute__((always_inline))  // of a lambda

namespace stnjax {

constexpr int64_t kBlock = 128;  // points whose places are worked out at once
constexpr int kMaxAxes = 3;

// How an axis continues outside. `beyond` is the pixel that stands right after
// the last one, -1 where there is none. After `period` pixels it repeats, with
// the pixels from `beyond` on mirrored where that is not 0; where `period` is
// 0, all places before the first pixel or after the last one are alike.
struct Axis {
  int64_t size, beyond, period;

  bool fills() const { return beyond < 0; }

  // The pixel that stands at an index, -1 where there is none.
  template <int kTaps>
  INLINE int32_t pixel(int32_t index) const {
    const int32_t last = static_cast<int32_t>(size) - 1;
    if constexpr (kTaps < 4) {  // positions are padded: one tap is outside
      return index <= last ? index : static_cast<int32_t>(beyond);
    }
    if (index >= 0 && index <= last) return index;
    if (period == 0) {
      return static_cast<int32_t>(fills() || index > 0 ? beyond : 0);
    }
    const int32_t every = static_cast<int32_t>(period);
    int32_t rest = index < 0 ? index + every : index;
    if (rest < 0 || rest >= every) {  // divisions are slow
      rest = index % every;
      if (rest < 0) rest += every;
    }
    return rest <= last ? rest : static_cast<int32_t>(size + beyond - rest);
  }
};

// The methods by their weights: the attribute `weighting` of calls.
enum Weighting : int64_t { kNearest, kLinear, kKeys, kBSpline };

constexpr int taps_of(int64_t weighting) {
  return weighting == kNearest ? 1 : weighting == kLinear ? 2 : 4;
}

// A number of channels, which is kKnown where that is not 0.
template <int kKnown>
struct Channels {
  int64_t number;

  INLINE operator int64_t() const { return kKnown ? kKnown : number; }
};

// The rows of taps along x: the combinations of taps along the other axes.
constexpr int rows_of(int axes, int taps) {
  return axes == 2 ? taps : taps * taps;
}

struct Sizes {
  int64_t batch, channels, points;
  int64_t weighting;
  int num_axes;
  Axis axes[kMaxAxes];

  // Of one image.
  int64_t numbers() const {
    int64_t product = channels;
    for (int a = 0; a < num_axes; ++a) product *= axes[a].size;
    return product;
  }
};

// The coordinates of some points, in pixels. NaN reads nothing.
template <typename T, typename Number = const T>
struct Points {
  Number* along[kMaxAxes];

  Points from(int64_t offset) const {
    Points moved = *this;
    for (Number*& axis : moved.along) axis = axis ? axis + offset : nullptr;
    return moved;
  }
};

// The points of a result, which are given, or those that a matrix takes its
// pixels to, counted from the middles.
template <typename T>
struct Source {
  Points<T> points;
  const T* matrix;  // [batch, axes, axes + 1], or null
  int64_t shape[kMaxAxes];  // of the result: along x, y(, z)
  int64_t first;  // pixel of a result

  // From a point of an image on.
  Source of(const Sizes& s, int64_t image, int64_t point) const {
    Source moved = *this;
    moved.points = points.from(point);
    moved.first = point - image * s.points;
    if (matrix) moved.matrix += image * s.num_axes * (s.num_axes + 1);
    return moved;
  }
};

// Numbers of type T, axes, and taps along each.
template <typename T, int kAxes, int kTaps>
struct Case {};

// Whether no tap of a point is a pixel, some are, or all.
enum State : int32_t { kNowhere, kOnEdge, kInside };

template <typename T, int kAxes, int kTaps>
struct Places {
  int32_t at[kAxes][kBlock];  // the first tap along each axis
  int32_t first[kBlock];      // that tap, counted along rows; 0 if not inside
  int32_t state[kBlock];
  bool inside;  // whether all points are
  T part[kAxes][kBlock];  // from the pixel at or before the place
  T weight[kAxes][kTaps][kBlock];
  T slope[kAxes][kTaps][kBlock];  // of the weight; if it was asked for
  // Weights of all taps, of two along each axis; if slopes were not asked for.
  T corner[2 * rows_of(kAxes, 2)][kBlock];
};

// Positions along an axis with which a point reads anything, and one before.
template <typename T>
struct Range {
  T under, least, over;
};

template <typename T, int kTaps>
INLINE Range<T> range_of(const Axis& axis) {
  constexpr int32_t before = kTaps / 2 - (kTaps > 1 ? 1 : 0);
  const int32_t size = static_cast<int32_t>(axis.size);
  int32_t low = axis.fills() ? 1 - kTaps : 0, high = size - 1;
  // Callers pad positions, or where that takes four taps, keep them near.
  if (kTaps == 4 && !axis.fills()) {
    const int32_t period = static_cast<int32_t>(axis.period);
    low = -(period ? period : kTaps) - before;
    high = (period ? period : size + kTaps) - before;
  }
  const T least = T(low + before) - (kTaps == 1 ? T(0.5) : T(0));
  return {T(low + before) - 1, least, T(high + before) + 1};
}

template <typename T, int kAxes, int kTaps>
INLINE void locate(const Sizes& s, const Points<T>& points, int64_t count,
                   Places<T, kAxes, kTaps>& p) {
  constexpr int32_t before = kTaps / 2 - (kTaps > 1 ? 1 : 0);
  Range<T> range[kAxes];
  int32_t sizes[kAxes];
  uint32_t last = 0;
  for (int a = kAxes - 1; a >= 0; --a) {
    range[a] = range_of<T, kTaps>(s.axes[a]);
    sizes[a] = static_cast<int32_t>(s.axes[a].size);
    last = last * static_cast<uint32_t>(sizes[a]) +
           static_cast<uint32_t>(sizes[a] - kTaps);
  }
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    int32_t at[kAxes], some = 1, cut = 0;
    for (int a = 0; a < kAxes; ++a) {
      T place = points.along[a][i];
      const bool reads = place >= range[a].least && place < range[a].over;
      place = reads ? place : range[a].under;
      const T whole = kTaps == 1 ? std::rint(place) : std::floor(place);
      at[a] = static_cast<int32_t>(whole) - before;
      p.at[a][i] = at[a];
      p.part[a][i] = place - whole;
      some &= reads ? 1 : 0;
      cut |= at[a] | (sizes[a] - kTaps - at[a]);  // below 0: a tap is outside
    }
    uint32_t first = static_cast<uint32_t>(at[kAxes - 1]);
    for (int a = kAxes - 2; a >= 0; --a) {
      first = first * static_cast<uint32_t>(sizes[a]) +
              static_cast<uint32_t>(at[a]);
    }
    // Behind the last pixel there are none to read along with it.
    cut |= static_cast<int32_t>(last - first - 1);
    p.first[i] = cut >= 0 ? static_cast<int32_t>(first) : 0;
    p.state[i] = some + (cut >= 0 ? 1 : 0);
  }
  int32_t least = kInside;
  for (int64_t i = 0; i < count; ++i) least &= p.state[i];
  p.inside = least == kInside;
}

template <typename T>
INLINE T keys_near(T x) {  // Keys 1981, eq. 15, as in methods.py
  constexpr T a = T(-0.75);
  return ((a + 2) * x - (a + 3)) * x * x + 1;
}

template <typename T>
INLINE T keys_far(T x) {
  constexpr T a = T(-0.75);
  return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
}

template <typename T>
INLINE T keys_near_slope(T x) {
  constexpr T a = T(-0.75);
  return (3 * (a + 2) * x - 2 * (a + 3)) * x;
}

template <typename T>
INLINE T keys_far_slope(T x) {
  constexpr T a = T(-0.75);
  return (3 * a * x - 10 * a) * x + 8 * a;
}

template <typename T>
INLINE void weigh_keys(const T* part, int64_t count, bool with_slopes,
                       T (*w)[kBlock], T (*d)[kBlock]) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T t = part[i];
    w[0][i] = keys_far(t + 1);
    w[1][i] = keys_near(t);
    w[2][i] = keys_near(1 - t);
    w[3][i] = keys_far(2 - t);
  }
  if (!with_slopes) return;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T t = part[i];
    d[0][i] = keys_far_slope(t + 1);
    d[1][i] = keys_near_slope(t);
    d[2][i] = -keys_near_slope(1 - t);
    d[3][i] = -keys_far_slope(2 - t);
  }
}

template <typename T>
INLINE void weigh_b_spline(const T* part, int64_t count, bool with_slopes,
                           T (*w)[kBlock], T (*d)[kBlock]) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {  // Unser 1999, eq. 8
    const T t = part[i], u = 1 - t;
    w[0][i] = u * u * u / 6;
    w[1][i] = T(2) / 3 - t * t * (1 - t / 2);
    w[2][i] = T(2) / 3 - u * u * (1 - u / 2);
    w[3][i] = t * t * t / 6;
  }
  if (!with_slopes) return;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T t = part[i], u = 1 - t;
    d[0][i] = -u * u / 2;
    d[1][i] = (T(1.5) * t - 2) * t;
    d[2][i] = (2 - T(1.5) * u) * u;
    d[3][i] = t * t / 2;
  }
}

// The taps of one point: weights along x, and those of the rows, which are the
// combinations of taps along the other axes.
template <typename T, int kAxes, int kTaps>
struct Stencil {
  static constexpr int kRows = rows_of(kAxes, kTaps);
  T x[kTaps], row[kRows];
};

template <int kAxes, int kTaps, typename T>
INLINE T weight_of(const Places<T, kAxes, kTaps>& p, int axis, int tap,
                   int64_t i) {
  if constexpr (kTaps == 2) return tap ? p.part[axis][i] : 1 - p.part[axis][i];
  return p.weight[axis][tap][i];
}

template <int kAxes, int kTaps, typename T>
INLINE Stencil<T, kAxes, kTaps> stencil(const Places<T, kAxes, kTaps>& p,
                                        int64_t i) {
  Stencil<T, kAxes, kTaps> w;
  for (int k = 0; k < kTaps; ++k) w.x[k] = weight_of(p, 0, k, i);
  for (int r = 0; r < w.kRows; ++r) {
    w.row[r] = weight_of(p, 1, r % kTaps, i);
    if constexpr (kAxes == 3) w.row[r] *= weight_of(p, 2, r / kTaps, i);
  }
  return w;
}

// The weights of a block, and their derivatives.
template <typename T, int kAxes, int kTaps>
INLINE void weigh(const Sizes& s, int64_t count, bool with_slopes,
                  Places<T, kAxes, kTaps>& p) {
  if constexpr (kTaps == 2) {
    if (with_slopes) return;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const Stencil<T, kAxes, 2> w = stencil(p, i);
      for (int tap = 0; tap < w.kRows * 2; ++tap) {
        p.corner[tap][i] = w.row[tap / 2] * w.x[tap % 2];
      }
    }
  }
#pragma GCC unroll 1
  for (int a = 0; a < kAxes; ++a) {
    const T* part = p.part[a];
    auto& w = p.weight[a];
    auto& d = p.slope[a];
    if constexpr (kTaps == 4) {
      if (s.weighting == kKeys) {
        weigh_keys(part, count, with_slopes, w, d);
      } else {
        weigh_b_spline(part, count, with_slopes, w, d);
      }
    }
  }
}

template <int kTaps, typename T, int kAxes>
INLINE T slope_of(const Places<T, kAxes, kTaps>& p, int axis, int tap,
                  int64_t i) {
  if constexpr (kTaps == 2) return tap ? T(1) : T(-1);
  return p.slope[axis][tap][i];
}

// The derivative along `axis` of the weights of one point.
template <int kAxes, int kTaps, typename T>
INLINE Stencil<T, kAxes, kTaps> slope_stencil(
    const Places<T, kAxes, kTaps>& p, int axis, int64_t i) {
  Stencil<T, kAxes, kTaps> w;
  for (int k = 0; k < kTaps; ++k) {
    w.x[k] = axis == 0 ? slope_of<kTaps>(p, 0, k, i) : weight_of(p, 0, k, i);
  }
  for (int r = 0; r < w.kRows; ++r) {
    const int y = r % kTaps;
    w.row[r] = axis == 1 ? slope_of<kTaps>(p, 1, y, i) : weight_of(p, 1, y, i);
    if constexpr (kAxes == 3) {
      const int z = r / kTaps;
      w.row[r] *=
          axis == 2 ? slope_of<kTaps>(p, 2, z, i) : weight_of(p, 2, z, i);
    }
  }
  return w;
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_PLACES_H_
