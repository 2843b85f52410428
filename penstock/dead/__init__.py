"""Dead letters as an operator sees them: what the dead topics hold, and what is done about it.

Decided here: what a letter's evidence means (`letters`), which letters a user chose (`selection`), how they look (`showing`), which
are sent again and under which id (`redriving`), and whether a record fails again in the same way (`reproduction_result`). Those
modules are pure. `topic` reads and writes the bus; `reproducer` writes and reads a folder with one record; `reproduction` runs such
a record in a child process (`reproduce_child`).

Interface: `penstock.cli.dead`. Invariants: reading a letter never fails, whatever its headers hold; the child may die, this
process and the model repository do not change; a repeated redrive has the same id, so the result store keeps one answer.

It may import `workers` (to load the model) and `protocol`, never `gateway`.
"""
