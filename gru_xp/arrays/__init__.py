"""Arrays of any library: the supported libraries, devices, dtypes, transfers and checks.

Nothing here is specific to GRUs. ``backends/README.md`` has the steps to add an array library.
"""
