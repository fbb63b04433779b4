// Step 3 within patches of a large photo, so that most of the work is done in cache.
//
// Edges in order of cost are scattered over the photo: in a large photo, every look-up misses the
// cache. A patch fits. Within a patch, regions merge in order of cost, but only where no edge from
// outside can change the result: a region is frozen once it meets an edge that leaves the patch or
// leads to a frozen region, unless one of the two regions can merge no more at this cost. A pass
// over the whole photo decides the rest.
#pragma once

#include "bucketed_edges.h"
#include "candidates.h"
#include "forest.h"
#include "graph.h"
#include "merge_by_cost.h"

namespace cuekit::cpu::felzenszwalb_detail {

// Drops the edges within the merged regions. `edges` and `candidates` are workspace.
void merge_patches(const Graph& graph, const Forest& forest, MergeByCost& merge_by_cost,
                   BucketedEdges& edges, Candidates& candidates);

}  // namespace cuekit::cpu::felzenszwalb_detail
