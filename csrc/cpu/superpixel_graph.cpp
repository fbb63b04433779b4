// superpixel_graph: runs of equal labels (superpixels.h) instead of pixels.
//
// Runs that touch become contacts: a pair of superpixels, and how many pixels of them touch there.
// Contacts are sorted by counting, first by the larger and then by the smaller superpixel of each,
// which takes time and memory in proportion to the runs whatever the labels are. Equal pairs are
// then neighbours, and become one edge.
#include "cuekit/superpixel_graph.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "interrupt.h"
#include "lab.h"
#include "parallel.h"
#include "superpixel_sums.h"

namespace cuekit::cpu {
namespace {

// The label of runs that are in none.
constexpr std::int32_t no_superpixel = -1;

struct Contact {
  std::int32_t first, second;  // superpixels, first < second
  std::int32_t length;
};

// Numbers the superpixels that have pixels as 0, 1, ..., and returns how many there are.
std::int32_t make_compact(SuperpixelRuns* superpixels) {
  std::vector<std::int32_t> number(superpixels->rows(), no_superpixel);
  std::int32_t count = 0;
  for (std::int64_t s = 0; s < superpixels->count; ++s)
    if (superpixels->sizes[s] > 0) number[s] = count++;
  for (Run& run : superpixels->runs) run.label = number[run.label];
  return count;
}

void add_contact(std::int32_t a, std::int32_t b, std::int32_t length,
                 std::vector<Contact>* contacts) {
  if (a == b || a == no_superpixel || b == no_superpixel) return;
  contacts->push_back({std::min(a, b), std::max(a, b), length});
}

// Of runs side by side in one row, and of runs in it and in the row above (null: there is none).
void find_contacts(const Run* run, const Run* end, const Run* above,
                   std::vector<Contact>* contacts) {
  for (const Run* next = run + 1; next < end; ++next)
    add_contact(next[-1].label, next->label, 1, contacts);
  if (above == nullptr) return;
  std::int32_t here = run->length, there = above->length;  // pixels left of the two runs
  for (;;) {
    const std::int32_t both = std::min(here, there);
    add_contact(above->label, run->label, both, contacts);
    here -= both;
    there -= both;
    if (here == 0) {
      if (++run == end) return;
      here = run->length;
    }
    if (there == 0) there = (++above)->length;
  }
}

// Sorts by one of the two superpixels, and keeps the order of contacts in which it is the same.
template <std::int32_t Contact::* key>
void sort_by(std::int32_t superpixels, std::vector<Contact>* contacts,
             std::vector<Contact>* sorted) {
  std::vector<std::int64_t> begin(superpixels + 1);
  for (const Contact& contact : *contacts) ++begin[contact.*key + 1];
  for (std::int32_t s = 0; s < superpixels; ++s) begin[s + 1] += begin[s];
  sorted->resize(contacts->size());
  const auto count = static_cast<std::int64_t>(contacts->size());
  polling_loop(0, count, [&](std::int64_t i) {
    const Contact& contact = (*contacts)[i];
    (*sorted)[begin[contact.*key]++] = contact;
  });
  contacts->swap(*sorted);
}

// Writes the edges and returns how many there are.
std::int64_t find_edges(std::int32_t superpixels, std::vector<Contact>* contacts,
                        std::int32_t* edges,      // (edges, 2)
                        std::int64_t* lengths) {  // (edges)
  std::vector<Contact> room;
  sort_by<&Contact::second>(superpixels, contacts, &room);
  sort_by<&Contact::first>(superpixels, contacts, &room);
  std::int64_t count = 0;
  for (const Contact& contact : *contacts) {
    const std::int32_t* const last = edges + 2 * (count - 1);
    if (count == 0 || last[0] != contact.first || last[1] != contact.second) {
      edges[2 * count] = contact.first;
      edges[2 * count + 1] = contact.second;
      lengths[count++] = 0;
    }
    lengths[count - 1] += contact.length;
  }
  return count;
}

// Adds one row to the nodes.
void add_row(const Run* run, const Run* end, std::int64_t y, const SuperpixelGraphParams& p,
             std::int64_t* nodes) {  // (S, 5)
  std::int64_t x = 0;
  for (; run != end; x += run->length, ++run) {
    if (run->label == no_superpixel) continue;
    const std::int64_t length = run->length;
    std::int64_t* const node = nodes + run->label * node_columns;
    if (node[1] == 0) node[0] = y * p.width + x;
    node[1] += length;
    if (y == 0 || y == p.height - 1)
      node[2] += length;
    else if (p.width == 1)
      node[2] += 1;
    else
      node[2] += (x == 0) + (x + length == p.width);
    node[3] += y * length;
    node[4] += x * length + length * (length - 1) / 2;
  }
}

SuperpixelRuns read_labels(const std::int32_t* labels,  // (H, W)
                           std::int64_t superpixels, const SuperpixelGraphParams& p) {
  return read_runs({labels, 4, true}, 0, p.height, p.width, std::max<std::int64_t>(superpixels, 1));
}

// Adds the colours of one row.
void add_colours(const double* planes,  // (3, width)
                 std::int64_t width, const Run* run, const Run* end,
                 double* sums) {  // (rows, 3)
  for (; run != end; planes += run->length, ++run) {
    double* const sum = sums + 3 * std::int64_t{run->label};
    double l = sum[0], a = sum[1], b = sum[2];
    for (std::int32_t x = 0; x < run->length; ++x) {
      l += planes[x];
      a += planes[width + x];
      b += planes[2 * width + x];
    }
    sum[0] = l;
    sum[1] = a;
    sum[2] = b;
  }
}

}  // namespace

void superpixel_graph(const SuperpixelsView& superpixels,  // (1, H, W)
                      std::int32_t* labels,                // (H, W)
                      std::int64_t* counts,                // (2)
                      std::int32_t* edges,                 // (edges, 2)
                      std::int64_t* lengths,               // (edges)
                      std::int64_t* nodes,                 // (S, 5)
                      const SuperpixelGraphParams& p, Context&) {
  SuperpixelRuns runs = read_runs(superpixels, 0, p.height, p.width, superpixel_limit);
  const std::int32_t count = make_compact(&runs);
  std::fill_n(nodes, count * node_columns, std::int64_t{0});
  std::vector<Contact> contacts;
  PollAfterWork poll;
  for (std::int64_t y = 0; y < p.height; ++y) {
    const Run *begin = runs.row(y), *end = runs.row(y + 1);
    add_row(begin, end, y, p, nodes);
    find_contacts(begin, end, y > 0 ? runs.row(y - 1) : nullptr, &contacts);
    poll(end - begin);
  }
  counts[0] = count;
  counts[1] = find_edges(count, &contacts, edges, lengths);
  paint_runs<16>(runs.begin(), runs.end(), p.height * p.width, 1, labels,
                 [](std::int32_t label, std::int64_t) { return label; });
}

void superpixel_colours(const std::uint8_t* image,   // (H, W, 3)
                        const std::int32_t* labels,  // (H, W)
                        double* colours,             // (S, 3)
                        std::int64_t superpixels, const SuperpixelGraphParams& p, Context&) {
  const SuperpixelRuns runs = read_labels(labels, superpixels, p);
  std::vector<double> planes(3 * p.width), sums(3 * runs.rows());
  PollAfterWork poll;
  for (std::int64_t y = 0; y < p.height; ++y) {
    find_lab(image + 3 * y * p.width, p.width, p.width, planes.data());
    add_colours(planes.data(), p.width, runs.row(y), runs.row(y + 1), sums.data());
    poll(8 * p.width);
  }
  for (std::int64_t i = 0; i < 3 * std::min(superpixels, runs.count); ++i)
    colours[i] = sums[i] / std::max(runs.sizes[i / 3], 1.0);
}

namespace {

template <class M>
bool table_of(const Source& values,        // (K, H, W)
              const std::int32_t* labels,  // (H, W)
              M* table,                    // (K, S)
              std::int64_t channels, std::int64_t superpixels, const SuperpixelGraphParams& p,
              int threads) {
  const SuperpixelRuns runs = read_labels(labels, superpixels, p);
  const std::int64_t pixels = p.height * p.width;
  std::atomic<bool> all_finite{true};
  parallel_for(channel_blocks(channels), threads, [&](std::int64_t block) {
    const std::int64_t first = block * channels_per_block;
    const std::int64_t count = std::min<std::int64_t>(channels_per_block, channels - first);
    const std::vector<double> sums =
        sums_of_block(values.from(first * pixels), count, runs, pixels);
    // With the sums of the pixels in no superpixel, which are checked only.
    for (std::int64_t s = 0; s < runs.rows(); ++s) {
      for (std::int64_t k = 0; k < count; ++k) {
        const double sum = sums[s * channels_per_block + k];
        if (!std::isfinite(sum)) all_finite = false;
        if (s < runs.count && s < superpixels)
          table[(first + k) * superpixels + s] = store<M>(sum / std::max(runs.sizes[s], 1.0));
      }
    }
  });
  return all_finite;
}

}  // namespace

template <class T>
bool superpixel_table(const T* values,             // (K, H, W)
                      const std::int32_t* labels,  // (H, W)
                      mean_type<T>* table,         // (K, S)
                      std::int64_t channels, std::int64_t superpixels,
                      const SuperpixelGraphParams& p, Context& context) {
  return table_of(Source(values), labels, table, channels, superpixels, p, context.threads);
}

#define CUEKIT_INSTANTIATE(T)                                                                \
  template bool superpixel_table(const T*, const std::int32_t*, mean_type<T>*, std::int64_t, \
                                 std::int64_t, const SuperpixelGraphParams&, Context&);
CUEKIT_INSTANTIATE(flag)
CUEKIT_INSTANTIATE(half)
CUEKIT_INSTANTIATE(float)
CUEKIT_INSTANTIATE(double)
CUEKIT_INSTANTIATE(std::uint8_t)
CUEKIT_INSTANTIATE(std::int8_t)
CUEKIT_INSTANTIATE(std::uint16_t)
CUEKIT_INSTANTIATE(std::int16_t)
CUEKIT_INSTANTIATE(std::uint32_t)
CUEKIT_INSTANTIATE(std::int32_t)
CUEKIT_INSTANTIATE(std::uint64_t)
CUEKIT_INSTANTIATE(std::int64_t)
#undef CUEKIT_INSTANTIATE

}  // namespace cuekit::cpu
