"""From a folder on disk to a model version with a complete configuration, its placement and the check of its requests.

Decides which folders are models (`folders`), which versions are served (`scan`), whether a file can be what its backend loads
(`sniffing`, `model_file_check`), what a configuration leaves out (`completion`), which instance runs where (`placement`), and which
requests fit (`signature`, by `protocol.request_check`).

Repositories in object stores are mirrored into local folders (`remote`, `sources`); `allow_list` reads which digests may be served.

Interface: `scan.scan_repositories` and `scan.scan_file`, `version.ModelVersion`, `completion.complete`, `placement.place`,
`signature.Signature`.
Invariants: nothing here changes a repository or imports a framework; a fault in one model is that model's `reason` and
keeps no other from being served.
Imports nothing else of `workers`.
"""
