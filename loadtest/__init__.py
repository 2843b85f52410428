"""How Penstock's numbers are made: open- and closed-loop load, the limit (the model called directly), tables and plots.

Read in this order: `arrivals` (when a request is due), `payloads` (what it says and what must come back), `samples` (what is
counted), `openloop` (who sends), `connections` and `fleet_target` (where to), `bench` (the whole measurement). The method, and
what is not measured, is in README.md.
"""
