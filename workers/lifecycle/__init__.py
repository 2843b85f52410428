"""Which model versions this worker has: following the repository, loading, unloading, and announcing them to the gateways.

Decides which versions the repositories have (`repositories`), which to load or unload (`slots.plan_loads`), which state may follow
which (`states`), how a version becomes instances (`loader`), when an announcement is withheld because another worker serves the
version (`announcer`), and when a topic gets more partitions (`partitions`, which `spares` asks).

Interface: `models.Models`, `loader.Loader`.
Invariants: a state changes only by `states.next_state`; nothing of a load runs on the event loop; a version is announced READY once
its topic exists and all its instances are warm.
Imports no backend by name, and nothing from `supervision`.
"""
