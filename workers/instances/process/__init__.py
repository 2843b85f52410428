"""Instances that are processes: a model that crashes ends its child, never the worker.

One process per instance (`process`), which loads the model itself (`inside`) and does all the work of a batch. Orders and replies
are small framed msgpack messages (`line`, `messages`); the tensors lie in anonymous shared memory (`segments`), which is gone with
the last process that holds it, however it ends. A process that ends is followed by a copy of one that was started ahead
(`spares`).
"""
