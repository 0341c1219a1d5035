// Runs the compiled sampler over random shapes, methods and coordinates, for
// the sanitizers of a compiler; prints how many cases ran.

#include <algorithm>
#include <cstdio>
#include <functional>
#include <limits>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

#include "sampler.h"

namespace {

struct Pool {
  std::vector<std::thread> threads;
  int64_t num_threads() const { return 2; }
  void Schedule(std::function<void()> task) { threads.emplace_back(task); }
  ~Pool() {
    for (std::thread& thread : threads) thread.join();
  }
};

std::mt19937 random_bits(0);

int64_t draw(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random_bits);
}

stnjax::Axis draw_axis() {
  const int64_t size = draw(1, 9);
  const stnjax::Axis kinds[] = {
      {size, -1, 0},
      {size, size - 1, 0},
      {size, 0, size},
      {size, size - 1, 2 * size},
      {size, std::max<int64_t>(size - 2, 0),
       std::max<int64_t>(2 * size - 2, 1)}};
  return kinds[draw(0, 4)];
}

template <typename T>
T draw_place(int64_t size) {
  const T odd[] = {std::numeric_limits<T>::quiet_NaN(),
                   std::numeric_limits<T>::infinity(),
                   -std::numeric_limits<T>::infinity(),
                   std::numeric_limits<T>::max(),
                   -std::numeric_limits<T>::max(),
                   T(-0.5),
                   T(-1e-30)};
  if (draw(0, 9) == 0) return odd[draw(0, 6)];
  return std::uniform_real_distribution<T>(-2 * size - 5,
                                           3 * size + 5)(random_bits);
}

// For each image a matrix of places, odd ones among them.
template <typename T>
std::vector<T> draw_matrices(const stnjax::Sizes& s) {
  std::vector<T> matrices;
  for (int64_t i = 0; i < s.batch * s.num_axes * (s.num_axes + 1); ++i) {
    const bool odd = draw(0, 19) == 0;
    matrices.push_back(odd ? draw_place<T>(9) : T(draw(-9, 9)) / 4);
  }
  return matrices;
}

template <typename T>
void run(int axes) {
  const int64_t rows = draw(1, 9), planes = axes == 3 ? draw(1, 3) : 1;
  const int64_t width = draw(0, 150 / (rows * planes) + 3);
  stnjax::Sizes s = {draw(0, 3), draw(0, 1) ? draw(0, 9) : draw(1, 4),
                     width * rows * planes, draw(0, 3), axes, {}};
  int64_t pixels = s.batch * s.channels;
  for (int a = 0; a < axes; ++a) {
    s.axes[a] = draw_axis();
    pixels *= s.axes[a].size;
  }
  const int64_t count = s.batch * s.points;
  // Each as large as it has to be, so that what is beyond is noticed.
  std::vector<T> image(pixels, 1), to_image(pixels), places[3], slopes[3];
  std::vector<T> values(count * s.channels), cotangent(count * s.channels, 1);
  stnjax::Points<T> points = {};
  stnjax::Points<T, T> gradients = {};
  for (int a = 0; a < axes; ++a) {
    for (int64_t i = 0; i < count; ++i) {
      places[a].push_back(draw_place<T>(s.axes[a].size));
    }
    slopes[a].resize(count);
    points.along[a] = places[a].data();
    gradients.along[a] = slopes[a].data();
  }
  Pool pool;
  const std::vector<uint8_t> bytes(pixels, 1);
  std::vector<uint8_t> byte_values(values.size());
  const auto read = [&](const stnjax::Source<T>& source) {
    stnjax::read_all(pool, s, image.data(), source, values.data());
    if constexpr (std::is_same_v<T, float>) {
      stnjax::read_all(pool, s, bytes.data(), source, byte_values.data());
    }
  };
  read({points});
  stnjax::grad_coords_all<T>(pool, s, image.data(), points, cotangent.data(),
                             gradients);
  stnjax::grad_image_all<T>(pool, s, cotangent.data(), {points},
                            to_image.data());
  for (int a = 0; a < axes; ++a) {
    stnjax::remainders_all(pool, places[a].data(), count, draw(1, 9),
                           slopes[a].data());
  }
  // Of as many pixels, which a matrix maps.
  const std::vector<T> matrix = draw_matrices<T>(s);
  std::vector<T> to_matrix(matrix.size());
  if (s.points > 0) {
    const stnjax::Source<T> source = {
        {}, matrix.data(), {width, rows, planes}};
    read(source);
    stnjax::grad_matrix_all<T>(pool, s, image.data(), source, cotangent.data(),
                               to_matrix.data());
    stnjax::grad_image_all<T>(pool, s, cotangent.data(), source,
                              to_image.data());
  }
}

template <typename T>
void run_filters() {
  const bool cyclic = draw(0, 1), wide = draw(0, 3) == 0;
  const int64_t size = draw(0, 3) ? draw(1, 9) : draw(1, 600);
  stnjax::Lines s = {draw(0, 3), draw(0, 3), size,
                     wide ? draw(510, 1030) : draw(0, 4),
                     cyclic ? size / 2 + 1 : size, cyclic};
  const int64_t pixels = s.batch * s.lines * s.numbers();
  std::vector<T> images(pixels, 1), filtered(pixels);
  std::vector<T> weights(s.batch * s.taps, 1);
  std::vector<int32_t> reaches;
  for (int64_t i = 0; i < s.batch; ++i) {
    reaches.push_back(draw(0, std::min<int64_t>(s.taps - 1, 40)));
  }
  Pool pool;
  stnjax::filter_all<T>(pool, s, images.data(), weights.data(), reaches.data(),
                        filtered.data());
  stnjax::correlate_all<T>(pool, s, images.data(), filtered.data(),
                           reaches.data(), weights.data());
}

template <typename T>
void run_bands() {
  const bool wide = draw(0, 3) == 0;
  stnjax::Band s = {draw(0, 3), draw(1, 90), draw(1, 90),
                    wide ? draw(1000, 2100) : draw(0, 7), 0};
  s.taps = draw(0, s.size);
  const std::vector<T> arrays(s.lines * s.size * s.inner, 1);
  const std::vector<T> weights(s.count * s.taps, 1);
  std::vector<T> results(s.lines * s.count * s.inner);
  std::vector<int32_t> starts;
  for (int64_t i = 0; i < s.count; ++i) {
    starts.push_back(draw(0, s.size - s.taps));
  }
  Pool pool;
  const auto multiply = [&](const auto& numbers) {
    stnjax::multiply_all(pool, s, numbers.data(), weights.data(),
                         starts.data(), results.data());
  };
  multiply(arrays);
  if constexpr (std::is_same_v<T, float>) {
    multiply(std::vector<uint8_t>(arrays.size(), 1));
  }
}

}  // namespace

int main() {
  int cases = 0;
  for (; cases < 4002; cases += 6) {
    run<float>(2);
    run<float>(3);
    run<double>(2);
    run<double>(3);
    cases % 4 ? run_filters<float>() : run_filters<double>();
    cases % 4 ? run_bands<float>() : run_bands<double>();
  }
  std::printf("%d\n", cases);
}
