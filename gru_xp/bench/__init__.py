"""``gru-xp bench``: gru_xp beside other libraries, in speed and in memory.

`command` is the command itself, `parent` starts one process for each number of threads, `child` is
that process: it lets the contestants of `contestants` and `peers` run the cases of `cases`, timed
by `timing`, single steps by `streams`, and weighed by `memory`. `report`, `tables` and `plot` show
what came out.
"""
