"""StableHLO text, written straight from a graph.  Nothing here needs XLA: `emit.emit_module` is the entry."""
