"""The promises of docs/guarantees.md and the settings of Kafka and Redis that they hang on: judged from read facts, without I/O.

Pure.
"""
