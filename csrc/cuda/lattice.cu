// Builds the lattices of lattice.h: memory, and the order of the steps in lattice_build.h.
#include <algorithm>
#include <cub/device/device_scan.cuh>

#include "lattice.h"
#include "lattice_build.h"
#include "launch.h"

namespace cuekit::cuda {
namespace {

double last_position(std::int64_t count, float width) {
  return static_cast<double>(static_cast<float>(count - 1) / width);
}

}  // namespace

Embeddings embeddings_for(const Lattice& lattice, const FilterParams& p) {
  double x = 0, y = 0, level = 0, spatial_x = 0, spatial_y = 0;
  if (lattice.bilateral > 0) {
    x = last_position(lattice.width, p.bilateral_sxy);
    y = last_position(lattice.height, p.bilateral_sxy);
    level = last_position(256, p.bilateral_srgb);
  }
  if (lattice.spatial > 0) {
    spatial_x = last_position(lattice.width, p.gaussian_sxy);
    spatial_y = last_position(lattice.height, p.gaussian_sxy);
  }
  return {Embedding<5>({x, y, level, level, level}), Embedding<2>({spatial_x, spatial_y}),
          p.gaussian_sxy, p.bilateral_sxy, p.bilateral_srgb};
}

Lattice::Lattice(std::int64_t photos, std::int64_t photo_height, std::int64_t photo_width,
                 const FilterParams& p, Arena& arena)
    : height(static_cast<std::int32_t>(photo_height)),
      width(static_cast<std::int32_t>(photo_width)),
      images(photos),
      tiles_per_image(ceil_div(photo_height * photo_width, tile_pixels)),
      bilateral(p.bilateral_weight > 0 ? bilateral_corners : 0),
      spatial(p.gaussian_weight > 0 ? spatial_corners : 0),
      rows(arena.take<Row>(entries())),
      weights(arena.take<float>(entries())),
      norms(p.normalisation == Normalisation::mean ? arena.take<float>(tiles() * tile_pixels)
                                                   : nullptr),
      copies(arena.take<std::uint32_t>(tiles())),
      spans(arena.take<std::uint32_t>(entries())),
      order(arena.take<std::uint16_t>(entries())),
      image_of(arena.take<std::uint32_t>(entries())),
      neighbours(arena.take<Neighbours>(axes() * entries())),
      starts(arena.take<std::uint32_t>(entries() + 1)),
      list(arena.take<Row>(entries())),
      numbering(arena.take<std::uint32_t>(entries() / 32 + 1)),
      firsts_in_word(arena.take<std::uint32_t>(entries() / 32 + 1)),
      first_bits(arena.take<std::uint32_t>(entries() / 32)),
      slot_of(arena.take<std::uint32_t>(entries())),
      copy_count(arena.take<std::uint32_t>(entries() + 1)),
      copy_row(arena.take<Row>(entries())),
      copy_arrival(arena.take<std::uint32_t>(entries())),
      arrived(arena.take<Row>(entries())),
      temporary(nullptr),
      temporary_bytes(0) {
  static_cast<void>(embeddings_for(*this, p));
  // Enough for the longer of the two prefix sums is enough for both.
  check(cub::DeviceScan::ExclusiveSum(nullptr, temporary_bytes, copy_count, starts, entries() + 1));
  temporary = arena.take<char>(static_cast<std::int64_t>(temporary_bytes));
}

std::int64_t Lattice::scratch_bytes() const {
  const std::int64_t ones = 2 * entries() * ones_stride * static_cast<std::int64_t>(sizeof(float));
  return std::max(ones, Tables(*this, nullptr).bytes(*this));
}

void Lattice::build(const std::uint8_t* photos, const FilterParams& p, void* scratch,
                    cudaStream_t stream) const {
  const auto clear = [&](void* memory, std::int64_t bytes) {
    check(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes), stream));
  };
  const auto exclusive_sum = [&](const std::uint32_t* values, std::uint32_t* sums,
                                 std::int64_t count) {
    std::size_t bytes = temporary_bytes;
    check(cub::DeviceScan::ExclusiveSum(temporary, bytes, values, sums, count, stream));
  };
  const Embeddings embeddings = embeddings_for(*this, p);
  const Tables tables(*this, scratch);
  clear(tables.slots, tables.bytes(*this));
  find_simplices(*this, tables, embeddings, photos, stream);
  exclusive_sum(firsts_in_word, numbering, entries() / 32 + 1);
  number_vertices(*this, tables, embeddings, stream);

  // The tables are no longer needed: their memory becomes that of the filter of ones.
  auto* const blurred = static_cast<float*>(scratch);
  float* const splatted = blurred + entries() * ones_stride;
  clear(copy_count, (entries() + 1) * static_cast<std::int64_t>(sizeof(std::uint32_t)));
  find_copies(*this, splatted, stream);
  exclusive_sum(copy_count, starts, entries() + 1);
  list_copies(*this, stream);
  if (p.normalisation != Normalisation::none)
    join_and_blur(*this, splatted, blurred, ValueRows{ones_stride, nullptr}, stream);
  normalise(*this, splatted, p, stream);
}

}  // namespace cuekit::cuda
