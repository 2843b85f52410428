"""What Redis runs for us, one Lua file per call of `protocol.ports.Results`; each opens with its contract."""
