"""Autoscaling measured: four policies under the same load, with real workers on this machine, and simulated over a day.

`load` and `trace` say what comes, `future` plans with that knowledge, `signals` are what the policies look at, `trial` runs them
for real, `waking` measures the way from zero workers to the first answer, and `simulation` replays a day. `report` writes the page.
Invariant: every policy has the same arithmetic (`infra.local.autoscaler`), bounds, window and pause between two looks; only what it
looks at differs.
"""
