"""Training of a character-level language model.

`trainer.Trainer` performs a run in memory, and `session` stores it on disk. The losses, the
optimizer and the model work with the arrays of any library that gru_xp supports.
"""
