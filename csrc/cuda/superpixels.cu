// Groups the pixels of a batch by superpixel, three steps: make_keys computes a pixel's key per
// thread, CUB's radix sort sorts pixels by their keys, and find_starts finds by binary search where
// a key begins, one key per thread.
#include <algorithm>
#include <cub/device/device_radix_sort.cuh>

#include "superpixels.h"

namespace cuekit::cuda {
namespace {

template <class Label>
__global__ void make_keys(const Label* __restrict__ superpixels,  // (images, pixels)
                          GroupedPixels g) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i >= g.size()) return;
  const std::int64_t image = i / g.pixels;
  // Negative labels become very large ones, which are out of range, too.
  const auto label = static_cast<std::uint64_t>(superpixels[i]);
  const bool out_of_range = label >= static_cast<std::uint64_t>(g.num_superpixels);
  g.keys[i] = static_cast<std::uint32_t>(
      out_of_range ? g.num_keys() : image * g.num_superpixels + static_cast<std::int64_t>(label));
  g.indices[i] = static_cast<std::int32_t>(i - image * g.pixels);
}

// starts[key] = the first index in sorted_keys whose key is not below `key`.
__global__ void find_starts(GroupedPixels g) {
  const std::int64_t key = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (key > g.num_keys()) return;
  std::int64_t low = 0, high = g.size();
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (g.sorted_keys[middle] < static_cast<std::uint32_t>(key)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  g.starts[key] = static_cast<std::uint32_t>(low);
}

int bits_of(std::int64_t value) {
  int bits = 1;
  while (value >> bits != 0) ++bits;
  return bits;
}

template <class Label>
void launch_make_keys(const SuperpixelsView& superpixels, std::int64_t first,
                      const GroupedPixels& g, cudaStream_t stream) {
  launch(make_keys<Label>, ceil_div(g.size(), block_size), block_size, stream,
         static_cast<const Label*>(superpixels.data) + first * g.pixels, g);
}

// Without a workspace it only sets `bytes` to the size that the workspace must have.
void sort_by_key(const GroupedPixels& g, void* workspace, std::size_t& bytes, cudaStream_t stream) {
  // CUB is faster with a 32-bit count than with a 64-bit one.
  check(cub::DeviceRadixSort::SortPairs(workspace, bytes, g.keys, g.sorted_keys, g.indices,
                                        g.sorted_pixels, static_cast<std::uint32_t>(g.size()), 0,
                                        bits_of(g.num_keys()), stream));
}

}  // namespace

GroupedPixels::GroupedPixels(std::int64_t num_images, std::int64_t image_pixels,
                             std::int64_t superpixels, Arena& arena)
    : images(num_images),
      pixels(image_pixels),
      num_superpixels(superpixels),
      keys(arena.take<std::uint32_t>(size())),
      sorted_keys(arena.take<std::uint32_t>(size())),
      indices(arena.take<std::int32_t>(size())),
      sorted_pixels(arena.take<std::int32_t>(size())),
      starts(arena.take<std::uint32_t>(num_keys() + 1)),
      sort_workspace(nullptr),
      sort_bytes(0) {
  sort_by_key(*this, nullptr, sort_bytes, nullptr);
  sort_workspace = arena.take<char>(static_cast<std::int64_t>(sort_bytes));
}

void GroupedPixels::group(const SuperpixelsView& superpixels, std::int64_t first,
                          cudaStream_t stream) const {
  const bool is_signed = superpixels.is_signed;
  switch (superpixels.itemsize) {
    case 1:
      is_signed ? launch_make_keys<std::int8_t>(superpixels, first, *this, stream)
                : launch_make_keys<std::uint8_t>(superpixels, first, *this, stream);
      break;
    case 2:
      is_signed ? launch_make_keys<std::int16_t>(superpixels, first, *this, stream)
                : launch_make_keys<std::uint16_t>(superpixels, first, *this, stream);
      break;
    case 4:
      is_signed ? launch_make_keys<std::int32_t>(superpixels, first, *this, stream)
                : launch_make_keys<std::uint32_t>(superpixels, first, *this, stream);
      break;
    default:
      is_signed ? launch_make_keys<std::int64_t>(superpixels, first, *this, stream)
                : launch_make_keys<std::uint64_t>(superpixels, first, *this, stream);
  }
  std::size_t bytes = sort_bytes;
  sort_by_key(*this, sort_workspace, bytes, stream);
  launch(find_starts, ceil_div(num_keys() + 1, block_size), block_size, stream, *this);
}

std::int64_t images_per_step(std::int64_t batch, std::int64_t pixels,
                             std::int64_t num_superpixels) {
  constexpr std::int64_t enough_pixels = 1 << 23;  // to fill any GPU; 16 bytes each, and the sort's
  constexpr std::int64_t enough_rows = 1 << 20;    // of a table, at most 256 bytes each
  const std::int64_t rows = pixels / segment_pixels + num_superpixels + 1;
  const std::int64_t images = std::min(enough_pixels / pixels, enough_rows / rows);
  return std::clamp<std::int64_t>(images, 1, batch);
}

}  // namespace cuekit::cuda
