"""A call from its submission to its answer.

Decided here: what is published and in which group (`service`, `publisher`), who waits for which request (`pending`), how a call
ends (`completion`), who is woken by an answer (`dispatcher`), and when an answer is lost and its request published again
(`positions`, `recovery`).
Others use `Service`, which has all of these as attributes, `Call`, and `Dispatcher`, which `background` drives.
Invariants: a submitted call is answered exactly once or cancelled by its caller; wake-ups are hints, a sweep finds what they miss.
May import `admission`, `catalogue`, `metrics` and the modules below them; it knows nothing about HTTP.
"""
