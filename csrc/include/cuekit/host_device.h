// CUEKIT_HD marks functions that CPU and GPU share. nvcc compiles them for both; for other
// compilers the mark is empty.
#pragma once

#ifdef __CUDACC__
#define CUEKIT_HD __host__ __device__
#else
#define CUEKIT_HD
#endif
