"""The HTTP frontend: Open Inference Protocol V2, as Triton speaks it, and what a queue adds to it."""
