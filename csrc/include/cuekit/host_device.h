// Marks what a header shares between CPU and GPU: per-pixel maths, compiled for both by nvcc and
// plain C++ everywhere else.
#pragma once

#ifdef __CUDACC__
#define CUEKIT_HD __host__ __device__
#else
#define CUEKIT_HD
#endif
