// Blurs the values of all classes at the vertices of a lattice.
#pragma once

#include <cstdint>

#include "filter.h"

namespace cuekit::cpu {

// The number of tasks that share the vertices of a lattice: with few of them, one, because tasks
// wait for each other after every axis.
std::int64_t blur_tasks(std::int64_t vertices, int threads);

// Adds the splatted values of copies to their vertices, blurs along all axes, and sets the copies
// to the results. T is float or double.
template <class T>
void blur_in_place(const Lattice& lattice,
                   T* values,  // (nodes, class_stride(classes))
                   std::int64_t classes, AxisOrder order, std::int64_t tasks, int threads);

// The blur of the CRF: blurs the splatted values of each filter in place and swaps them with the
// values to slice. Filters without a lattice are left out.
void blur_filters(Filter& spatial, Filter& bilateral, std::int64_t classes, int threads);

}  // namespace cuekit::cpu
