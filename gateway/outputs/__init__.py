"""What becomes of an answer's outputs before a caller gets them: classification.

Decided here: which elements are the highest, and how they are written. Both frontends call `classification.classify` on an answer
whose caller asked for classes; the stored answer keeps the tensor itself. Imports nothing of `gateway`.
"""
