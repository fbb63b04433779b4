"""Side-by-side timings of cuekit's functions: ``python -m benchmarks``."""

import os

# Every side gets one thread. The BLAS under NumPy reads these when it is first loaded.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
