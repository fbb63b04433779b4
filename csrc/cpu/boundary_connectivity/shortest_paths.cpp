// Shortest paths: elimination of nodes, and passes over the arcs that it leaves.
#include "shortest_paths.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>
#include <utility>

#include "cpu/interrupt.h"
#include "cpu/lanes.h"
#include "cpu/simd.h"

namespace cuekit::cpu {
namespace {

// How many times as many arcs as the graph has may be left by the elimination.
constexpr std::int64_t most_fill = 8;

// Joins the neighbours of a node to each other, and removes the node from their arcs.
class Eliminate {
 public:
  explicit Eliminate(std::vector<std::vector<Arc>>* neighbours)
      : neighbours_(*neighbours), slots_(neighbours->size(), -1) {}

  void operator()(std::int32_t node) {
    const std::vector<Arc>& ways = neighbours_[node];
    for (const Arc& first : ways) {
      std::vector<Arc>& arcs = neighbours_[first.to];
      const auto back =
          std::find_if(arcs.begin(), arcs.end(), [node](const Arc& arc) { return arc.to == node; });
      *back = arcs.back();
      arcs.pop_back();
      const auto count = static_cast<std::int32_t>(arcs.size());
      for (std::int32_t i = 0; i < count; ++i) slots_[arcs[i].to] = i;
      for (const Arc& second : ways) {
        if (second.to == first.to) continue;
        const double length = first.length + second.length;
        const std::int32_t slot = slots_[second.to];
        if (slot < 0)
          arcs.push_back({second.to, length});
        else
          arcs[slot].length = std::min(arcs[slot].length, length);
      }
      for (std::int32_t i = 0; i < count; ++i) slots_[arcs[i].to] = -1;
      poll_(2 * count + static_cast<std::int64_t>(ways.size()));
    }
  }

 private:
  std::vector<std::vector<Arc>>& neighbours_;
  std::vector<std::int32_t> slots_;  // where a node is among the arcs of another; -1: nowhere
  PollAfterWork poll_;
};

// What the passes read.
struct Paths {
  const std::int64_t* begin;
  const Arc* arcs;
  std::int64_t eliminated, places;
  bool closed;
};

// distances[j] = min(distances[j], first + rest[j])
struct ShortenRow {
  static CUEKIT_INLINE void run(double first, const double* rest, std::int64_t count,
                                double* __restrict distances) {
    for (std::int64_t j = 0; j < count; ++j) {
      const double through = first + rest[j];
      distances[j] = through < distances[j] ? through : distances[j];
    }
  }
};

// Makes the length of each arc of a complete graph that of the shortest path, by the method of
// Floyd and Warshall.
void close(const std::vector<std::int32_t>& nodes, std::vector<std::vector<Arc>>* neighbours) {
  const auto count = static_cast<std::int64_t>(nodes.size());
  std::vector<std::int64_t> index(neighbours->size());
  for (std::int64_t i = 0; i < count; ++i) index[nodes[i]] = i;
  std::vector<double> lengths(count * count);
  for (std::int64_t i = 0; i < count; ++i)
    for (const Arc& arc : (*neighbours)[nodes[i]]) lengths[i * count + index[arc.to]] = arc.length;
  PollAfterWork poll;
  for (std::int64_t k = 0; k < count; ++k) {
    const std::vector<double> through(lengths.begin() + k * count,
                                      lengths.begin() + (k + 1) * count);
    for (std::int64_t i = 0; i < count; ++i) {
      dispatch<ShortenRow>(lengths[i * count + k], through.data(), count, &lengths[i * count]);
      poll(count);
    }
  }
  for (std::int64_t i = 0; i < count; ++i)
    for (Arc& arc : (*neighbours)[nodes[i]]) arc.length = lengths[i * count + index[arc.to]];
}

template <int width>
struct FollowArcs {
  using Values = Lanes<double, width>;
  static constexpr int parts = sources_at_a_time / width;

  static CUEKIT_INLINE void load(const double* distances, std::int64_t place, Values* here) {
    for (int k = 0; k < parts; ++k)
      here[k] = Values::load(distances + sources_at_a_time * place + k * width);
  }

  // Shortens the distances at the end of an arc. Returns false where none gets shorter.
  static CUEKIT_INLINE void forwards(const Values* here, const Arc& arc, double* distances) {
    const Values length = Values::all(arc.length);
    for (int k = 0; k < parts; ++k) {
      double* const there = distances + sources_at_a_time * arc.to + k * width;
      smaller(Values::load(there), here[k] + length).store(there);
    }
  }

  // The distances at a place, as short as its arcs make them.
  static CUEKIT_INLINE void backwards(const Paths& paths, std::int64_t place, double* distances) {
    Values here[parts], there[parts];
    load(distances, place, here);
    for (std::int64_t i = paths.begin[place]; i < paths.begin[place + 1]; ++i) {
      const Values length = Values::all(paths.arcs[i].length);
      load(distances, paths.arcs[i].to, there);
      for (int k = 0; k < parts; ++k) here[k] = smaller(here[k], there[k] + length);
    }
    for (int k = 0; k < parts; ++k)
      here[k].store(distances + sources_at_a_time * place + k * width);
  }

  // The arcs of the places that were not eliminated. Returns whether a distance got shorter.
  static CUEKIT_INLINE bool shorten(const Paths& paths, double* distances) {
    bool shorter = false;
    for (std::int64_t place = paths.eliminated; place < paths.places; ++place) {
      double before[sources_at_a_time];
      double* const here = distances + sources_at_a_time * place;
      std::copy_n(here, sources_at_a_time, before);
      backwards(paths, place, distances);
      shorter = shorter || !std::equal(before, before + sources_at_a_time, here);
    }
    return shorter;
  }

  static CUEKIT_INLINE void run(const Paths* paths, std::int64_t first, double* distances,
                                std::uint8_t* reached) {  // (places)
    for (std::int64_t place = first; place < paths->eliminated; ++place) {
      if (!reached[place]) continue;
      Values here[parts];
      load(distances, place, here);
      for (std::int64_t i = paths->begin[place]; i < paths->begin[place + 1]; ++i) {
        forwards(here, paths->arcs[i], distances);
        reached[paths->arcs[i].to] = 1;
      }
    }
    while (shorten(*paths, distances) && !paths->closed) poll();
    for (std::int64_t place = paths->eliminated; place-- > 0;) backwards(*paths, place, distances);
  }
};

}  // namespace

ShortestPaths::ShortestPaths(std::vector<std::vector<Arc>> neighbours) {
  const auto count = static_cast<std::int32_t>(neighbours.size());
  using Candidate = std::pair<std::size_t, std::int32_t>;  // number of neighbours, node
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  std::int64_t room = count;
  for (std::int32_t node = 0; node < count; ++node) {
    queue.emplace(neighbours[node].size(), node);
    room += most_fill * static_cast<std::int64_t>(neighbours[node].size());
  }
  std::vector<std::int32_t> place_of(count, -1);
  Eliminate eliminate(&neighbours);
  while (!queue.empty()) {
    const auto [degree, node] = queue.top();
    queue.pop();
    // It is out of date where the node was eliminated, or has another number of neighbours now.
    if (place_of[node] >= 0 || degree != neighbours[node].size()) continue;
    closed_ = degree + nodes_.size() + 1 == neighbours.size();
    room -= static_cast<std::int64_t>(degree);
    if (closed_ || room < 0) break;
    eliminate(node);
    place_of[node] = static_cast<std::int32_t>(nodes_.size());
    nodes_.push_back(node);
    for (const Arc& arc : neighbours[node]) queue.emplace(neighbours[arc.to].size(), arc.to);
  }
  eliminated_ = static_cast<std::int64_t>(nodes_.size());
  for (std::int32_t node = 0; node < count; ++node) {
    if (place_of[node] >= 0) continue;
    place_of[node] = static_cast<std::int32_t>(nodes_.size());
    nodes_.push_back(node);
  }
  if (closed_) close({nodes_.begin() + eliminated_, nodes_.end()}, &neighbours);
  begin_.push_back(0);
  for (const std::int32_t node : nodes_) {
    for (const Arc& arc : neighbours[node]) arcs_.push_back({place_of[arc.to], arc.length});
    begin_.push_back(static_cast<std::int64_t>(arcs_.size()));
  }
}

void ShortestPaths::find(std::int64_t first, double* distances) const {  // (places, 8)
  const auto places = static_cast<std::int64_t>(nodes_.size());
  std::fill_n(distances, sources_at_a_time * places, std::numeric_limits<double>::infinity());
  std::vector<std::uint8_t> reached(places);
  for (int k = 0; k < sources_at_a_time && first + k < places; ++k) {
    distances[sources_at_a_time * (first + k) + k] = 0;
    reached[first + k] = 1;
  }
  const Paths paths{begin_.data(), arcs_.data(), eliminated_, places, closed_};
  dispatch_width<FollowArcs<2>, FollowArcs<4>>(&paths, first, distances, reached.data());
}

}  // namespace cuekit::cpu
