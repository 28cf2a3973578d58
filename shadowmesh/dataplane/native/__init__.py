"""The pump in Rust: a child process that runs the extension `shadowmesh._native` (sources in `native/`)."""
