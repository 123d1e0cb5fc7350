"""On the path of a rehearsal: NumPy's arrays are taken for CuPy's; see ``cupy.py`` beside this."""

from contextlib import nullcontext, suppress

with suppress(ImportError):  # pip, before anything is installed
    import numpy as np

    import gru_xp
    from gru_xp.arrays import libraries
    from gru_xp.arrays.place import Place

    libraries.NAMESPACES["cupy"] = "array_api_compat.numpy"
    libraries._of_type[np.ndarray] = "cupy"
    # NumPy's arrays have no device that can be made the current one, and no get().
    Place.current = lambda place: nullcontext()  # type: ignore[method-assign]
    gru_xp.to_numpy = np.array

    import gru_xp_cupy.arrays

    from tests import cuda

    gru_xp_cupy.arrays.address = cuda.address
