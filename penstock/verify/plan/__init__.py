"""What a run will do. `plan` holds the types (`Plan`, `Call`, `Fault`) and the sizes of the fleet; `planner.make_plan` decides
every call and every fault from a seed.

Invariant: equal arguments give equal plans on every machine. Both modules are pure and import nothing of ours.
"""
