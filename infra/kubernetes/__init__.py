"""A real Kubernetes control plane on this machine, without containers: what the Helm chart in `infra/helm` is tried on.

Decided here: where the programs come from (`programs`), how they start (`plane`), and what is run on them (`__main__`).
"""
