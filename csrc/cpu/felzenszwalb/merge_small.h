// Step 4: visits all edges in the order of step 3 again, and merges the two regions of an edge when
// one of them is smaller than min_size.
#pragma once

#include <cstdint>

#include "bucketed_edges.h"
#include "candidates.h"
#include "forest.h"
#include "graph.h"

namespace cuekit::cpu::felzenszwalb_detail {

// `edges` are those that step 3 rejected: no others join different regions.
void merge_small(std::int64_t min_size, const Graph& graph, const Forest& forest,
                 const BucketedEdges& edges, Candidates& candidates);

}  // namespace cuekit::cpu::felzenszwalb_detail
