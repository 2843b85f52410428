"""More than one core for the doors: acceptor processes that share the ports of HTTP and gRPC, and the parent that keeps them alive.

Decided here: what part of each limit a process gets (`limits`), how the processes' metrics become one (`sums`), when a dead process
is started again and with which exit code everything ends (`parent`). A child (`child`) is a gateway with an id of its own.
Invariants: a gateway's parent imports no web framework and no client of Kafka or Redis; no counter of `/metrics` ever goes back;
children die with their parent; what a child has published (`ProcessChannel.publish`) every other child gets, also one that starts
later.
Why the ports are shared by SO_REUSEPORT: docs/decisions/0018-acceptor-processes.md.
"""
