"""Model repositories in S3-compatible object stores, as local folders that `scan` reads.

Decided here: what a URL names (`address`), which objects make up a model and which are refused (`keys`), how they are read (`s3`),
what is kept on this machine and what makes room (`cache`, `trees`), how an object is fetched (`fetching`), and when the folder of a
model is complete (`mirror`).

Interface: `address.parse`, `mirror.Mirror`; `sources.Sources` has the folders of all repositories of a worker.
Invariants: a folder that is handed out is complete, verified, and never changes; nothing is written outside of the cache's folder;
each object is fetched once per machine; loaded models do not depend on the store. boto3 is imported where a client is made.
"""
