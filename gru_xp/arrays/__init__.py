"""Arrays of any library: the supported libraries, devices, dtypes, transfers and checks.

Nothing here is specific to GRUs. To add an array library, follow the steps in
``backends/README.md``.
"""
