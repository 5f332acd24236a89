//! Benchmarks. `cargo bench -p walvault-benches` runs the hot stages alone; `streaming.py` beside
//! this crate runs whole jobs against PostgreSQL's own tools and prints both sides of each ratio.
