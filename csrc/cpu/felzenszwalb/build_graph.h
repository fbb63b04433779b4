// Steps 1 and 2, row by row: smooths the photo, measures the costs of the edges and unites mutual
// nearest neighbours.
#pragma once

#include "cuekit/felzenszwalb.h"
#include "forest.h"
#include "graph.h"
#include "smooth.h"

namespace cuekit::cpu::felzenszwalb_detail {

// Writes the costs and buckets of the graph and the initial regions of the forest.
void build_graph(const Photo& photo, const FelzenszwalbParams& p, const Graph& graph,
                 const Forest& forest);

}  // namespace cuekit::cpu::felzenszwalb_detail
