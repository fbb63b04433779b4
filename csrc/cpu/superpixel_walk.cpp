// superpixel_walk: four classes at a time, whose values of a superpixel are side by side. A class
// that has converged stays as it is, so no result depends on which classes are solved together.
#include "cuekit/superpixel_walk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "graph_edges.h"
#include "interrupt.h"
#include "lanes.h"
#include "parallel.h"
#include "simd.h"

namespace cuekit::cpu {
namespace {

constexpr int classes_at_a_time = 4;
using Values = Lanes<double, classes_at_a_time>;

constexpr double largest_error = 1e-10;
// Changes below it are rounding.
constexpr double rounding = 1e-15;
// D^1/2 relative to its maximum: below it, conjugate gradients leave the errors to the sweeps.
constexpr double smallest_root = 1e-5;

struct Walk {
  Arcs arcs;
  std::vector<double> steps;      // of each arc: P
  std::vector<double> symmetric;  // of each arc: D^-1/2 W D^-1/2
  std::vector<double> roots;      // of each superpixel: D^1/2 / its maximum
  std::vector<bool> is_alone;     // of each superpixel: whether it has no weight
  double goes_on;                 // 1 - r

  Walk(const std::int32_t* edges, const std::int64_t* lengths, const double* colours,
       const SuperpixelWalkParams& p)
      : arcs(edges, p.edges, p.superpixels),
        steps(2 * p.edges),
        symmetric(2 * p.edges),
        roots(p.superpixels),
        is_alone(p.superpixels, true),
        goes_on(1.0 - p.restart) {
    constexpr double none = -std::numeric_limits<double>::infinity();
    std::vector<double> logs(p.edges);
    for (std::int64_t e = 0; e < p.edges; ++e) {
      const double squared = squared_distance(colours, p.colours, edges[2 * e], edges[2 * e + 1]);
      logs[e] = std::log(static_cast<double>(lengths[e])) - squared / (2.0 * p.sigma * p.sigma);
    }
    std::vector<double> log_sums(p.superpixels, none);
    for (std::int64_t s = 0; s < p.superpixels; ++s) {
      const std::int64_t begin = arcs.begin[s], end = arcs.begin[s + 1];
      double largest = none, sum = 0;
      for (std::int64_t arc = begin; arc < end; ++arc)
        largest = std::max(largest, logs[arcs.edge[arc]]);
      if (largest == none) continue;
      is_alone[s] = false;
      for (std::int64_t arc = begin; arc < end; ++arc)
        sum += steps[arc] = std::exp(logs[arcs.edge[arc]] - largest);
      for (std::int64_t arc = begin; arc < end; ++arc) steps[arc] /= sum;
      log_sums[s] = largest + std::log(sum);
    }
    double most = none;
    for (const double log_sum : log_sums) most = std::max(most, log_sum);
    for (std::int64_t s = 0; s < p.superpixels; ++s) {
      if (is_alone[s]) continue;
      roots[s] = std::exp((log_sums[s] - most) / 2);
      for (std::int64_t arc = arcs.begin[s]; arc < arcs.begin[s + 1]; ++arc) {
        const std::int32_t other = arcs.to[arc];
        if (is_alone[other]) continue;
        symmetric[arc] = std::exp(logs[arcs.edge[arc]] - (log_sums[s] + log_sums[other]) / 2);
      }
    }
  }

  std::int64_t superpixels() const { return static_cast<std::int64_t>(roots.size()); }
};

// A value for each class.
struct PerClass {
  double values[classes_at_a_time] = {};

  Values lanes() const { return Values::load(values); }
};

CUEKIT_INLINE Values magnitude(Values values) { return larger(values, Values::zero() - values); }

// sum over j of matrix(s, j) x(j)
CUEKIT_INLINE Values product(const Walk& walk, const std::vector<double>& matrix, const double* x,
                             std::int64_t s) {
  Values sum = Values::zero();
  for (std::int64_t arc = walk.arcs.begin[s]; arc < walk.arcs.begin[s + 1]; ++arc)
    sum = sum + Values::load(x + classes_at_a_time * walk.arcs.to[arc]) * matrix[arc];
  return sum;
}

// image = (I - (1 - r) D^-1/2 W D^-1/2) x, and the sums of x * image.
struct Multiply {
  static CUEKIT_INLINE void run(const Walk* walk, const double* x, double* image,
                                PerClass* curvature) {
    Values sum = Values::zero();
    for (std::int64_t s = 0; s < walk->superpixels(); ++s) {
      const Values here = Values::load(x + classes_at_a_time * s);
      const Values result = here - product(*walk, walk->symmetric, x, s) * walk->goes_on;
      result.store(image + classes_at_a_time * s);
      sum = sum + here * result;
    }
    sum.store(curvature->values);
  }
};

// y += length * direction, residual -= length * image; the sums of squares of the residual, and its
// largest magnitudes divided by D^1/2.
struct Advance {
  static CUEKIT_INLINE void run(const Walk* walk, const PerClass* length, const double* direction,
                                const double* image, double* y, double* residual, PerClass* squares,
                                PerClass* largest) {
    const Values by = length->lanes();
    Values sum = Values::zero(), most = Values::zero();
    for (std::int64_t s = 0; s < walk->superpixels(); ++s) {
      const std::int64_t i = classes_at_a_time * s;
      (Values::load(y + i) + by * Values::load(direction + i)).store(y + i);
      const Values rest = Values::load(residual + i) - by * Values::load(image + i);
      rest.store(residual + i);
      sum = sum + rest * rest;
      if (walk->roots[s] >= smallest_root)
        most = larger(most, magnitude(rest) * (1.0 / walk->roots[s]));
    }
    sum.store(squares->values);
    most.store(largest->values);
  }
};

// direction = residual + length * direction
struct Turn {
  static CUEKIT_INLINE void run(const PerClass* length, const double* residual, double* direction,
                                std::int64_t superpixels) {
    const Values by = length->lanes();
    for (std::int64_t i = 0; i < classes_at_a_time * superpixels; i += classes_at_a_time)
      (Values::load(residual + i) + by * Values::load(direction + i)).store(direction + i);
  }
};

// A Gauss-Seidel sweep, and how much it changes values at most. `moves` is 0 for classes that stay
// as they are.
struct Sweep {
  static CUEKIT_INLINE void run(const Walk* walk, const double* values, const PerClass* moves,
                                bool backwards, double* x, PerClass* change) {
    const std::int64_t count = walk->superpixels();
    const Values zero = Values::zero(), moving = moves->lanes();
    Values most = zero;
    for (std::int64_t step = 0; step < count; ++step) {
      const std::int64_t s = backwards ? count - 1 - step : step;
      if (walk->is_alone[s]) continue;
      const std::int64_t i = classes_at_a_time * s;
      const Values before = Values::load(x + i);
      const Values after = Values::load(values + i) * (1.0 - walk->goes_on) +
                           product(*walk, walk->steps, x, s) * walk->goes_on;
      const Values next = if_less(zero, moving, after, before);
      next.store(x + i);
      most = larger(most, magnitude(next - before));
    }
    most.store(change->values);
  }
};

// Brings x, which is what is known of the solution, near it.
void conjugate_gradients(const Walk& walk, const std::vector<double>& values,
                         std::vector<double>* x) {
  const std::int64_t count = walk.superpixels();
  const std::int64_t size = classes_at_a_time * count;
  std::vector<double> y(size), residual(size), direction(size), image(size);
  for (std::int64_t i = 0; i < size; ++i) {
    const double root = walk.roots[i / classes_at_a_time];
    y[i] = root * values[i];
    residual[i] = (1.0 - walk.goes_on) * y[i];
  }
  PerClass curvature, squares, largest, length;
  dispatch<Multiply>(&walk, static_cast<const double*>(y.data()), image.data(), &curvature);
  for (std::int64_t i = 0; i < size; ++i) residual[i] -= image[i];
  direction = residual;
  for (std::int64_t i = 0; i < size; ++i)
    squares.values[i % classes_at_a_time] += residual[i] * residual[i];
  // What bounds the error of the method in exact arithmetic, down to the rounding of float64.
  const double condition = (1.0 + walk.goes_on) / (1.0 - walk.goes_on);
  const auto most_steps = static_cast<int>(20.0 * std::sqrt(condition)) + 20;
  bool done[classes_at_a_time] = {};
  PollAfterWork poll;
  for (int step = 0; step < most_steps; ++step) {
    dispatch<Multiply>(&walk, static_cast<const double*>(direction.data()), image.data(),
                       &curvature);
    for (int k = 0; k < classes_at_a_time; ++k) {
      done[k] = done[k] || !(curvature.values[k] > 0) || !(squares.values[k] > 0);
      length.values[k] = done[k] ? 0.0 : squares.values[k] / curvature.values[k];
    }
    if (std::all_of(done, done + classes_at_a_time, [](bool each) { return each; })) break;
    const PerClass before = squares;
    dispatch<Advance>(
        &walk, static_cast<const PerClass*>(&length), static_cast<const double*>(direction.data()),
        static_cast<const double*>(image.data()), y.data(), residual.data(), &squares, &largest);
    for (int k = 0; k < classes_at_a_time; ++k) {
      if (largest.values[k] <= largest_error * (1.0 - walk.goes_on)) done[k] = true;
      length.values[k] = done[k] ? 0.0 : squares.values[k] / before.values[k];
    }
    dispatch<Turn>(static_cast<const PerClass*>(&length),
                   static_cast<const double*>(residual.data()), direction.data(), count);
    poll(walk.arcs.begin.back() + 4 * count);
  }
  for (std::int64_t i = 0; i < size; ++i) {
    const double root = walk.roots[i / classes_at_a_time];
    if (root >= smallest_root) (*x)[i] = y[i] / root;
  }
}

// Sweeps until every class is within the largest error.
void sweep(const Walk& walk, const std::vector<double>& values, std::vector<double>* x) {
  const double restart = 1.0 - walk.goes_on;
  const double enough = std::max(largest_error * restart, rounding);
  // After as many, the largest error is below rounding, wherever it was at first.
  const auto most_sweeps = static_cast<std::int64_t>(40.0 / restart) + 2;
  PerClass moves, change;
  std::fill_n(moves.values, classes_at_a_time, 1.0);
  PollAfterWork poll;
  for (std::int64_t i = 0; i < most_sweeps; ++i) {
    dispatch<Sweep>(&walk, values.data(), static_cast<const PerClass*>(&moves), i % 2 == 1,
                    x->data(), &change);
    double moving = 0;
    for (int k = 0; k < classes_at_a_time; ++k) {
      if (change.values[k] <= enough) moves.values[k] = 0;
      moving += moves.values[k];
    }
    if (moving == 0) return;
    poll(walk.arcs.begin.back() + walk.superpixels());
  }
}

void solve(const Walk& walk, const double* values,  // (count, S)
           std::int64_t count, double* out) {       // (count, S)
  const std::int64_t superpixels = walk.superpixels();
  std::vector<double> scaled(classes_at_a_time * superpixels);
  double scales[classes_at_a_time];
  for (std::int64_t k = 0; k < count; ++k) {
    const double* const row = values + k * superpixels;
    double largest = 0;
    for (std::int64_t s = 0; s < superpixels; ++s) largest = std::max(largest, std::abs(row[s]));
    scales[k] = largest;
    for (std::int64_t s = 0; s < superpixels; ++s)
      scaled[classes_at_a_time * s + k] = largest > 0 ? row[s] / largest : 0.0;
  }
  std::vector<double> x = scaled;
  if (walk.goes_on > 0) {
    conjugate_gradients(walk, scaled, &x);
    sweep(walk, scaled, &x);
  }
  for (std::int64_t k = 0; k < count; ++k) {
    const double* const row = values + k * superpixels;
    const auto range = std::minmax_element(row, row + superpixels);
    // Means of values lie between them, but for rounding.
    for (std::int64_t s = 0; s < superpixels; ++s)
      out[k * superpixels + s] =
          std::clamp(x[classes_at_a_time * s + k] * scales[k], *range.first, *range.second);
  }
}

}  // namespace

void superpixel_walk(const double* values,         // (C, S)
                     const std::int32_t* edges,    // (E, 2)
                     const std::int64_t* lengths,  // (E)
                     const double* colours,        // (S, D)
                     double* out,                  // (C, S)
                     const SuperpixelWalkParams& p, Context& context) {
  check_edges(edges, p.edges, p.superpixels);
  const Walk walk(edges, lengths, colours, p);
  const std::int64_t blocks = (p.classes + classes_at_a_time - 1) / classes_at_a_time;
  parallel_for(blocks, context.threads, [&](std::int64_t block) {
    const std::int64_t first = block * classes_at_a_time;
    const std::int64_t count = std::min<std::int64_t>(classes_at_a_time, p.classes - first);
    solve(walk, values + first * p.superpixels, count, out + first * p.superpixels);
  });
}

}  // namespace cuekit::cpu
