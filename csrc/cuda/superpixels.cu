#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <limits>

#include "superpixels.h"

namespace cuekit::cuda {
namespace {

template <class Label>
__global__ void make_keys(const Label* __restrict__ labels, Grouped g) {
  const std::int64_t i = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (i >= g.size()) return;
  const std::int64_t image = i / g.pixels;
  const auto label = static_cast<std::uint64_t>(labels[i]);  // below 0: very large
  const bool none = label >= static_cast<std::uint64_t>(g.num_superpixels);
  g.key_of[i] = static_cast<std::uint32_t>(
      none ? g.groups() : image * g.num_superpixels + static_cast<std::int64_t>(label));
  g.raster[i] = static_cast<std::int32_t>(i - image * g.pixels);
}

// starts[key] = the first place in `keys` that is not below key.
__global__ void find_starts(Grouped g) {
  const std::int64_t key = std::int64_t{blockIdx.x} * block_size + threadIdx.x;
  if (key > g.groups()) return;
  std::int64_t low = 0, high = g.size();
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (g.keys[middle] < static_cast<std::uint32_t>(key)) {
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
void launch_make_keys(const SuperpixelsView& labels, std::int64_t first, const Grouped& g,
                      cudaStream_t stream) {
  launch(make_keys<Label>, ceil_div(g.size(), block_size), block_size, stream,
         static_cast<const Label*>(labels.data) + first * g.pixels, g);
}

}  // namespace

Grouped::Grouped(std::int64_t num_images, std::int64_t image_pixels, std::int64_t superpixels,
                 Arena& arena)
    : images(num_images),
      pixels(image_pixels),
      num_superpixels(superpixels),
      key_of(arena.take<std::uint32_t>(size())),
      keys(arena.take<std::uint32_t>(size())),
      raster(arena.take<std::int32_t>(size())),
      pixel(arena.take<std::int32_t>(size())),
      starts(arena.take<std::uint32_t>(groups() + 1)),
      temporary(nullptr),
      temporary_bytes(0) {
  // 32 bits for the number of items: CUB is faster then.
  check(cub::DeviceRadixSort::SortPairs(nullptr, temporary_bytes, key_of, keys, raster, pixel,
                                        static_cast<std::uint32_t>(size()), 0, bits_of(groups())));
  temporary = arena.take<char>(static_cast<std::int64_t>(temporary_bytes));
}

void Grouped::group(const SuperpixelsView& labels, std::int64_t first, cudaStream_t stream) const {
  switch (labels.itemsize) {
    case 1:
      labels.is_signed ? launch_make_keys<std::int8_t>(labels, first, *this, stream)
                       : launch_make_keys<std::uint8_t>(labels, first, *this, stream);
      break;
    case 2:
      labels.is_signed ? launch_make_keys<std::int16_t>(labels, first, *this, stream)
                       : launch_make_keys<std::uint16_t>(labels, first, *this, stream);
      break;
    case 4:
      labels.is_signed ? launch_make_keys<std::int32_t>(labels, first, *this, stream)
                       : launch_make_keys<std::uint32_t>(labels, first, *this, stream);
      break;
    default:
      labels.is_signed ? launch_make_keys<std::int64_t>(labels, first, *this, stream)
                       : launch_make_keys<std::uint64_t>(labels, first, *this, stream);
  }
  std::size_t bytes = temporary_bytes;
  check(cub::DeviceRadixSort::SortPairs(temporary, bytes, key_of, keys, raster, pixel,
                                        static_cast<std::uint32_t>(size()), 0, bits_of(groups()),
                                        stream));
  launch(find_starts, ceil_div(groups() + 1, block_size), block_size, stream, *this);
}

std::int64_t images_at_a_time(std::int64_t batch, std::int64_t pixels,
                              std::int64_t num_superpixels) {
  constexpr std::int64_t enough_pixels = 1 << 23;  // fill any GPU, at 16 bytes each
  constexpr std::int64_t enough_rows = 1 << 20;    // of tables of 256 bytes
  const std::int64_t rows = pixels / cut + num_superpixels + 1;
  const std::int64_t images = std::min(enough_pixels / pixels, enough_rows / rows);
  return std::clamp<std::int64_t>(images, 1, batch);
}

}  // namespace cuekit::cuda
