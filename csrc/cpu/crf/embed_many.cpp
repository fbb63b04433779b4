// embed() for more features. Its loops stay loops: the values would not fit in the registers, and
// unrolled they are five times as large and no faster.
#include "embed_vectors.h"

CUEKIT_INSTANTIATE_EMBED(6)
CUEKIT_INSTANTIATE_EMBED(7)
CUEKIT_INSTANTIATE_EMBED(8)
CUEKIT_INSTANTIATE_EMBED(9)
CUEKIT_INSTANTIATE_EMBED(10)
