"""What `<model>@<alias>` means: which version a call goes to, by weights, and which version answers a copy of it.

Decides which names are aliases and which routes are valid (`routes`), which version of a route a call gets (`choice`), what the
routes of a model are now (`table`), and when two answers agree (`comparison`). `gateway.repository.aliases` writes the records,
`gateway.calls.shadows` sends the copies.

Interface: `table.AliasTable`, `choice.drawn`, `choice.keyed`, `choice.primary`, `routes.parse_route`, `comparison.compare`.
Invariants: nothing here waits or reads a clock; a record that cannot be read changes no route.
"""
