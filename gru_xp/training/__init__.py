"""What a character-level language model's training needs, and no more.

`trainer.Trainer` is the run itself, `session` keeps it on disk; losses, optimizer and model compute
on the arrays of any library that gru_xp knows.
"""
