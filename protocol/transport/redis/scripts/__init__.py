"""The Lua scripts that write result streams; each states its keys, arguments and result at its top. No Python is here."""
