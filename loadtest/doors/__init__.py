"""The doors of a server compared with Triton's: gRPC, and large tensors over HTTP and gRPC.

`cli` has the command, `measure` the rounds, `h2load` and `loadtest.wrk` the load, `report` the page.
"""
