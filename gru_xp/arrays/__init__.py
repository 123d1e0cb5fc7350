"""Arrays of any library: what libraries there are, where an array lives, what is asked of one.

Nothing here knows of a GRU. To add an array library, follow the steps in ``backends/README.md``.
"""
