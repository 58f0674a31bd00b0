"""The papers' equations, one pure function each: no config, no state, no logging."""
