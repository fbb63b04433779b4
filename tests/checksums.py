"""Print a checksum of each compiled op's result, to compare two builds or two machines with diff.

    python tests/checksums.py

Kernels give the same bits with every compiler and processor. The exceptions are the few that call
exp, log or pow of the C library, if that is another library than glibc, and `photo_boundary`, which
calls NumPy's expm1.
"""

import hashlib
import sys

from common import INSTRUCTION_SETS, set_instruction_set
from ops import make_inputs, table

if __name__ == "__main__":
    for name, op in table(make_inputs(3, (150, 157))).items():
        if op.compiled:
            digests = set()
            for instructions in INSTRUCTION_SETS:
                set_instruction_set(instructions)
                digests.add(hashlib.sha256(op(*op.arrays).tobytes()).hexdigest()[:16])
            sys.stdout.write(f"{name}: {' '.join(sorted(digests))}\n")
