// embed() for up to 5 features, those of photos and volumes. Its loops are unrolled (setup.py), so
// that all values stay in registers.
#include "embed_vectors.h"

CUEKIT_INSTANTIATE_EMBED(1)
CUEKIT_INSTANTIATE_EMBED(2)
CUEKIT_INSTANTIATE_EMBED(3)
CUEKIT_INSTANTIATE_EMBED(4)
CUEKIT_INSTANTIATE_EMBED(5)
