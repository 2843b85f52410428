"""Reads what PyTorch's files state about themselves, without torch and without unpickling anything.

Decides which names, datatypes and shapes a torch.export archive (`exported`), an AOTInductor package (`compiled`) and a traced
TorchScript module (`traced`) have, which dimension is their batch (`signature`), and how outputs in tuples and dicts are named
(`pytrees`).

Interface: `archive.TorchArchive`, `exported.metadata`, `compiled.metadata`, `traced.example_inputs`.
Invariants: every read is bounded; nothing from a file is imported, evaluated or unpickled.
Imports `completion` for its metadata, and nothing that serves.
"""
