"""The HTTP frontend: Open Inference Protocol V2 as Triton implements it, and a queue's additions.

Decided here: limits on connections, heads and bodies (`reading`, `connection`, `body_receiver`), framing and allowed hosts
(`framing`), the principal (`access`), the call that a request makes (`inference`, `bodies`, `generating`), its response and HTTP
status (`responses`, `extras`, `errors`), every other route (`routes` and the files that it joins), what the document of them says
(`openapi`), and which work leaves the event loop (`inflating`, `json_pool`).
Others use `HttpServer` alone.
Invariants: responses leave a connection in the order of its requests; data kept for a caller is counted before it is kept; only
this room knows status numbers; only `uvicorn_internals` imports uvicorn.
May import everything in `gateway` but `app` and `background`.
"""
