"""pydensecrf's interface on cuekit's CRF: change the import, and keep the script.

::

    import cuekit.compat.pydensecrf.densecrf as dcrf  # was: import pydensecrf.densecrf as dcrf
    from cuekit.compat.pydensecrf.utils import unary_from_softmax

Results are pydensecrf's up to rounding, with two exceptions. Where the number of points is not a
multiple of 4, pydensecrf appends points of value 0 to each lattice. And what it computes in spite
of a mistake is an error here: NaN, labels that do not exist, features that are not finite.
"""
