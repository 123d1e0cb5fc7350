"""The GRU as pure functions, from the equations of one step up to layers and directions.

This package does not depend on the public classes. The options of the recurrence are the fields of
`loop.Loop`. To add an option, add a field there, and implement it in `equations` and `portable`.
"""
