"""Instances that are processes: a model that crashes ends its child, never the worker.

Decides how a child is started, fed, watched and replaced. In the worker: `executor` (the `Executor` of one instance), `pool` and
`forkserver` (where children come from), `child`, `commands`, `transfer`. In the fork server's process: `forkserver_main`. In a
child: `child_main`, `namespace`, `threads`. On both sides: `channel`, `messages`, `segments`.

Interface: `executor.ChildExecutor` and `executor.is_isolated`, `pool.ChildPool`, `child.Child` with `commands`; for `failures`,
`sticky.is_sticky`.
Invariants: a child loads the model itself and does all the work of a batch; one child has one batch at a time; messages are small
framed msgpack, and tensors lie in anonymous shared memory, which is freed with its last process however that ends.
Imports no framework, and nothing from `serving`, `lifecycle` or `failures`.
"""
