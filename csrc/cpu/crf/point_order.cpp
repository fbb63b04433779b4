// Sorts the points of point_order.h by the cells of a grid (counting sort). The number of a cell
// has 16 bits, which the features share: each has 2^(16 / d) levels. Within a cell, points keep
// their order.
#include "point_order.h"

#include <cmath>

namespace cuekit::cpu {
namespace {

// Fewer points are not sorted: the values at their vertices are in L2 and L3 anyway.
constexpr std::int64_t fewest_sorted = std::int64_t{1} << 15;
constexpr std::int64_t samples = 1024;

// Sample number s, spread over [0, count).
std::int64_t sample(std::int64_t s, std::int64_t count) {
  const std::uint64_t hash = static_cast<std::uint64_t>(s) * 0x9e3779b97f4a7c15u >> 32;
  return static_cast<std::int64_t>(hash * static_cast<std::uint64_t>(count) >> 32);
}

// Whether a point and the next one are about as far from each other as any two points.
bool in_no_order(const float* features, int d, std::int64_t points) {
  double to_next = 0, to_any = 0;
  for (std::int64_t s = 0; s < samples; ++s) {
    const std::int64_t point = sample(s, points - 1), other = sample(s + samples, points);
    for (int j = 0; j < d; ++j) {
      const float* const feature = features + j * points;
      const auto own = static_cast<double>(feature[point]);
      to_next += std::abs(own - static_cast<double>(feature[point + 1]));
      to_any += std::abs(own - static_cast<double>(feature[other]));
    }
  }
  return to_next > to_any / 2;
}

// Levels of a feature: equal steps within two standard deviations of its mean.
struct Levels {
  float lowest, per_step, last;

  std::uint32_t operator()(float value) const {
    const float level = (value - lowest) * per_step;
    return static_cast<std::uint32_t>(std::min(std::max(level, 0.0f), last));
  }
};

Levels levels_of(const float* feature, std::int64_t points, int bits) {
  double sum = 0, squares = 0;
  for (std::int64_t s = 0; s < samples; ++s) sum += static_cast<double>(feature[sample(s, points)]);
  const double mean = sum / samples;
  for (std::int64_t s = 0; s < samples; ++s) {
    const double difference = static_cast<double>(feature[sample(s, points)]) - mean;
    squares += difference * difference;
  }
  const double deviation = std::max(std::sqrt(squares / samples), 1e-20);
  const double count = std::ldexp(1.0, bits);
  return {static_cast<float>(mean - 2 * deviation), static_cast<float>(count / (4 * deviation)),
          static_cast<float>(count - 1)};
}

}  // namespace

std::shared_ptr<const PointOrder> order_of_points(const float* features, int d,
                                                  std::int64_t points) {
  if (points < fewest_sorted || !in_no_order(features, d, points)) return nullptr;
  const int bits = 16 / d;
  const Workspace<std::uint16_t> cells(points);
  std::fill_n(cells.get(), points, std::uint16_t{0});
  for (int j = 0; j < d; ++j) {
    const float* const feature = features + j * points;
    const Levels level = levels_of(feature, points, bits);
    polling_loop(0, points, [&](std::int64_t i) {
      cells.get()[i] = static_cast<std::uint16_t>(cells.get()[i] << bits | level(feature[i]));
    });
  }
  WorkspaceVector<std::int32_t> next(std::size_t{1} << 16, 0);  // the next place of each cell
  polling_loop(0, points, [&](std::int64_t i) { ++next.data()[cells.get()[i]]; });
  std::int32_t places = 0;
  for (std::int32_t& cell : next) {
    const std::int32_t count = cell;
    cell = places;
    places += count;
  }
  auto order = std::make_shared<PointOrder>();
  order->point_at = Workspace<std::int32_t>(points);
  order->place_of = Workspace<std::int32_t>(points);
  polling_loop(0, points, [&](std::int64_t i) {
    const std::int32_t place = next.data()[cells.get()[i]]++;
    order->place_of.get()[i] = place;
    order->point_at.get()[place] = static_cast<std::int32_t>(i);
  });
  return order;
}

}  // namespace cuekit::cpu
