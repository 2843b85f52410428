"""The page at `/`: what is served, how it does, and a form that sends a request.

Decided here: which files the page has (`files`), and what a browser may do with them (`policy`); `gateway.rest.page` decides
who gets them. All that the page shows comes from the API, mostly from `GET /v2/fleet/models`. `static` has its HTML, its style and
its script, which is in a module for each task.
Invariants: the files hold no secret, so that they need no API key; nothing is loaded from elsewhere; text of models and answers is
put on the page as text, never as markup.
May import nothing of `gateway`.
"""
