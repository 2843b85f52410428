"""What `penstock check` reports: which models of a repository would be served as by Triton, with a difference, or not at all.

Interface: `compatibility.check_repositories`.
Invariants: without `inspect` no framework is imported and no model code runs; the result names what was examined.
Imports `repository` and the names of `backends.pb_utils`, nothing that serves.
"""
