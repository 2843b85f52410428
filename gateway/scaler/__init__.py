"""The process that tells KEDA how many workers a group of models is to have: `externalscaler.ExternalScaler` over gRPC.

Decided here: what a ScaledObject's metadata means (`metadata`), what the scaler knows and when it knows too little to answer
(`knowledge`), and which method answers what (`server`). `app` puts the process together.
Others use `Scaler` and `ScalerSettings`.
Invariants: a hint about a waiting request is pushed in the turn of the event loop in which it came; without fresh heartbeats and
logs every call fails, so that nobody scales down on ignorance.
May import `scaling`, the HTTP/2 of `rpc` and the modules below them; it takes no calls for models.
"""
