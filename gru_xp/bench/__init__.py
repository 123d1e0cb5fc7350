"""``gru-xp bench``: comparison of the speed and memory of gru_xp and other libraries.

`command` defines the command. `parent` starts one process for each number of threads, and `child`
is that process. It runs the contestants of `contestants` and `peers` on the cases of `cases`.
`timing` measures the times of calls, `streams` those of single steps, and `memory` the peak memory.
`report`, `tables` and `plot` present the results.
"""
