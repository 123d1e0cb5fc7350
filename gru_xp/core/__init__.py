"""The GRU as pure functions, from the equations of one step up to layers and directions.

Nothing here knows of a class that a user makes. What is to be run is a value, `loop.Loop`; to add
an option, add a field there, and what it does to `equations` and `portable`.
"""
