"""Arrays of any library: the supported libraries, devices, dtypes, transfers and checks.

Nothing here is specific to GRUs. To add an array library, add it to `libraries.NAMESPACES`, and
its special cases to `devices`, `dtypes` and `transfer`.
"""
