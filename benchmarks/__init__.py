"""Timings of cuekit's functions side by side with other libraries: ``python -m benchmarks``."""

import os

# All libraries use one thread. NumPy's BLAS reads these variables when it is loaded.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
